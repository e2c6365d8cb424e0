"""A job's history as server-sent events: told from any place, followed as it happens, closed when the job has ended."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row

from tunesmith.service.database.batches import Batches
from tunesmith.service.database.transactions import Database
from tunesmith.service.events import event_id, event_object
from tunesmith.service.jobs import store
from tunesmith.service.jobs.polling.watcher import JobWatcher, Sighting

_AT_ONCE: Final = 100  # events read for one client before it has taken them: all that is ever held for it
_FIRST = b"retry: 2000\n\n"
_PING = b": nothing new\n\n"


@dataclass(frozen=True, slots=True)
class StreamTerms:
    """How often a silent stream says that it lives, and how long it lives: its client comes back where it was."""

    ping_seconds: float = 15
    life_seconds: float = 900


@dataclass(frozen=True, slots=True)
class Told:
    """Events as they go over the wire, up to the one of this number."""

    text: bytes
    last_seq: int


class EventStreams:
    """One of a process. Streams that read at the same moment share a query, and nobody holds a connection between."""

    def __init__(self, database: Database, watcher: JobWatcher, *, terms: StreamTerms | None = None) -> None:
        self._database = database
        self._watcher = watcher
        self._terms = terms or StreamTerms()
        self._batches: Batches[tuple[str, int], Told] = Batches(self._ask)

    async def tell(self, job_id: str, sighting: Sighting, *, after_seq: int) -> AsyncGenerator[bytes]:
        """Every event behind `after_seq` in order, once, and what follows until the job has ended or the time is up.

        The place is the number of the last event that the client has: whatever happens, nothing is left out or told
        twice. A client that reads slowly is read for slowly.
        """
        ends_at = self._watcher.clock() + self._terms.life_seconds
        yield _FIRST
        with self._watcher.place():
            while not self._watcher.is_closing and self._watcher.clock() < ends_at:
                if sighting.event_seq > after_seq and (told := await self._batches.get((job_id, after_seq))):
                    after_seq = told.last_seq
                    yield told.text
                elif sighting.is_final:
                    yield _end(sighting)
                    return
                else:
                    seen = await self._watcher.next_change(job_id, sighting, seconds=self._terms.ping_seconds)
                    if seen is None:
                        return
                    if seen == sighting:
                        yield _PING
                    sighting = seen

    async def _ask(self, places: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], Told]:
        async with self._database.reading() as connection:
            found = await store.find_events_behind(connection, places, limit=_AT_ONCE)
        return {place: _told(rows) for place, rows in found.items()}


def _told(rows: Sequence[Row[Any]]) -> Told:
    lines = [f"id: {event_id(row)}\ndata: {event_object(row).model_dump_json()}\n\n" for row in rows]
    return Told("".join(lines).encode(), last_seq=rows[-1].seq)


def _end(sighting: Sighting) -> bytes:
    return f'event: end\ndata: {{"status": "{sighting.state}"}}\n\n'.encode()
