"""The thin products of adapters beside the base's: each row with its own adapter, in two or three calls a module.

A written token goes through a lane. A lane has a place in one tensor per module and holds the adapter that was last
computed in it, so that all lanes are one batched product without gathering weights at every step. An adapter moves
into its first lane, what is in memory of it lies there; it is copied for a second sequence at the same time, and moves
out when a sequence with another adapter takes the lane. A block of a prompt is one adapter's and goes through its own
weights. Lanes are apart by rank, and every product has a shape that does not depend on the neighbours: a row has the
same bits in any company. docs/engine.md has what this was measured against.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import ReferenceType, ref

import torch
from torch.nn.functional import pad

from tunesmith.worker.inference.engine import memory
from tunesmith.worker.inference.engine.adapters.files import AdapterWeights
from tunesmith.worker.inference.engine.compute.cache import BLOCK_TOKENS


@dataclass(eq=False)
class Lane:
    """A place for one sequence's adapter among those of its rank."""

    lanes: Lanes
    index: int
    adapter: int | None = None  # the serial of what is here
    is_taken: bool = False
    owner: ReferenceType[AdapterWeights] | None = None  # whose tensors lie here; None for a copy


@dataclass
class Lanes:
    """The places of one rank: by module, `down` [places, rank, in] and `up` [places, rank, out]."""

    rank: int
    down: dict[str, torch.Tensor] = field(default_factory=dict)
    up: dict[str, torch.Tensor] = field(default_factory=dict)
    places: list[Lane] = field(default_factory=list)
    room: int = 0  # places that the tables have; memory is given as it is written

    def take(self, weights: AdapterWeights) -> Lane:
        """A free place, if possible one that holds this adapter already; else the first."""
        free = [lane for lane in self.places if not lane.is_taken]
        lane = next((lane for lane in free if lane.adapter == weights.serial), None) or next(iter(free), None)
        if lane is None:
            lane = self._grow()
        if lane.adapter != weights.serial:
            self._put(weights, lane)
        lane.is_taken = True
        return lane

    @property
    def bytes(self) -> int:
        """Of all places."""
        return sum(table.nbytes for side in (self.down, self.up) for table in side.values())

    def _grow(self) -> Lane:
        lane = Lane(self, len(self.places))
        self.places.append(lane)
        if len(self.places) > self.room:
            more = max(1, self.room)
            self.room += more
            for side in (self.down, self.up):
                for module, table in side.items():
                    side[module] = torch.cat([table, table.new_zeros(more, *table.shape[1:])])
            for place in self.places:
                self._point_at(place)
        return lane

    def _put(self, weights: AdapterWeights, lane: Lane) -> None:
        is_new = lane.adapter is None
        self._move_out(lane)
        for tables, own in ((self.down, weights.down), (self.up, weights.up)):
            for module, tensor in own.items():
                if module not in tables:
                    tables[module] = tensor.new_zeros(self.room, *tensor.shape)
                tables[module][lane.index] = tensor
            for module in tables.keys() - own.keys():
                tables[module][lane.index] = 0
        lane.adapter = weights.serial
        if all(_owner(place) is not weights for place in self.places):
            lane.owner = ref(weights)
            self._point_at(lane)
        if is_new:
            memory.give_back()  # smaller tables, and what the adapter lay in; later holes are filled by who moves out

    def _point_at(self, lane: Lane) -> None:
        """Let the tensors of a lane's owner be those in the lane."""
        if (weights := _owner(lane)) is not None:
            for tables, own in ((self.down, weights.down), (self.up, weights.up)):
                own.update({module: tables[module][lane.index] for module in own})

    def _move_out(self, lane: Lane) -> None:
        """Give a lane's owner, if it is still in memory, tensors of its own; another lane's copy becomes its place."""
        if (weights := _owner(lane)) is not None:
            lane.owner = None
            copy = next((each for each in self.places if each is not lane and each.adapter == weights.serial), None)
            if copy is not None:
                copy.owner = ref(weights)
                self._point_at(copy)
            else:
                for own in (weights.down, weights.up):
                    own.update({module: tensor.clone() for module, tensor in own.items()})
        lane.owner = None


def _owner(lane: Lane) -> AdapterWeights | None:
    return lane.owner() if lane.owner is not None else None


@dataclass(frozen=True)
class Piece:
    """Rows [start, end) of one prompt's block, all of one adapter."""

    start: int
    end: int
    weights: AdapterWeights


@dataclass(frozen=True)
class _Group:
    """Rows that are computed in the lanes of one rank. `places` and `rows` are None where both are 0, 1, 2, ..."""

    lanes: Lanes
    count: int
    places: torch.Tensor | None
    rows: torch.Tensor | None


class ThinProducts:
    """What is beside the base's products of one batch. Set for the batch at hand, called by each module."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lanes] = {}
        self._groups: list[_Group] = []
        self._pieces: list[Piece] = []

    def take(self, weights: AdapterWeights) -> Lane:
        """A lane for a sequence that begins to write."""
        return self._lanes.setdefault(weights.rank, Lanes(weights.rank)).take(weights)

    def give_back(self, lane: Lane) -> None:
        """The sequence has ended; what is in the lane stays for the next one."""
        lane.is_taken = False

    @property
    def bytes(self) -> int:
        """Of all lanes."""
        return sum(lanes.bytes for lanes in self._lanes.values())

    def begin(self, lanes: Sequence[Lane | None], pieces: Iterable[Piece]) -> None:
        """The next batch: its first rows are written tokens in these lanes (None: the base alone), then the pieces."""
        self._pieces = list(pieces)
        by_rank: dict[int, list[tuple[int, Lane]]] = {}
        for row, lane in enumerate(lanes):
            if lane is not None:
                by_rank.setdefault(lane.lanes.rank, []).append((row, lane))
        self._groups = [_group(taken) for taken in by_rank.values()]

    def __call__(self, module: str, rows: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        """`made` with what the rows' adapters add to this module's product."""
        for group in self._groups:
            if module in group.lanes.down:
                _add_lanes(group, module, rows, made)
        pieces = [piece for piece in self._pieces if module in piece.weights.down]
        if pieces:
            with _one_thread():
                for piece in pieces:
                    _add_piece(piece, module, rows, made)
        return made


@contextmanager
def _one_thread() -> Iterator[None]:
    """For products of some 20 microseconds, which wait longer for a second thread than it saves (docs/engine.md)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _group(taken: list[tuple[int, Lane]]) -> _Group:
    rows, places = [row for row, _ in taken], [lane.index for _, lane in taken]
    count = max(places) + 1
    is_plain = rows == places == list(range(count))
    return _Group(
        taken[0][1].lanes,
        count=count,
        places=None if is_plain else torch.tensor(places),
        rows=None if is_plain else torch.tensor(rows),
    )


def _add_lanes(group: _Group, module: str, rows: torch.Tensor, made: torch.Tensor) -> None:
    down, up = group.lanes.down[module][: group.count], group.lanes.up[module][: group.count]
    if group.rows is None or group.places is None:
        own = rows[: group.count]
    else:
        own = rows.new_zeros(group.count, rows.shape[1]).index_copy_(0, group.places, rows.index_select(0, group.rows))
    added = torch.bmm(torch.bmm(own[:, None], down.transpose(1, 2)), up)[:, 0]
    if group.rows is None or group.places is None:
        made[: group.count] += added
    else:
        made.index_add_(0, group.rows, added.index_select(0, group.places))


def _add_piece(piece: Piece, module: str, rows: torch.Tensor, made: torch.Tensor) -> None:
    own = pad(rows[piece.start : piece.end], (0, 0, 0, BLOCK_TOKENS - (piece.end - piece.start)))
    added = (own @ piece.weights.down[module].T) @ piece.weights.up[module]
    made[piece.start : piece.end] += added[: piece.end - piece.start]
