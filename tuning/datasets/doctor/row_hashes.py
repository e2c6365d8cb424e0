"""Which rows have been there before, in bounded memory: eight bytes a row, and no more than a limit of them."""

from array import array
from hashlib import blake2b

from tunesmith.tuning.datasets.row_formats import Row

MOST_BYTES = 128 * 1024**2  # 12 million rows
_FIRST_SLOTS = 1024
_FULL = 0.75


class RowHashes:
    """Eight-byte hashes of rows in one flat table. Of a million rows two different ones agree once in 37 million files.

    Once the table may grow no more, new rows are compared with those in it and not kept.
    """

    def __init__(self, *, most_bytes: int = MOST_BYTES) -> None:
        self._most_slots = most_bytes // 8
        self._table = array("Q", bytes(8 * min(_FIRST_SLOTS, self._most_slots)))
        self._count = 0
        self.dropped = 0
        """Rows that were not kept."""

    def __contains__(self, value: int) -> bool:
        return self._table[self._place(value)] != 0

    def add(self, value: int) -> bool:
        """Keep a row's hash; whether an equal one was there before."""
        if self._count >= _FULL * len(self._table):
            self._grow()
        place = self._place(value)
        if self._table[place]:
            return True
        if self._count >= _FULL * len(self._table):
            self.dropped += 1
        else:
            self._table[place] = value
            self._count += 1
        return False

    def _place(self, value: int) -> int:
        """Where a value is, or would be."""
        table, last = self._table, len(self._table) - 1
        place = value & last
        while table[place] not in (0, value):
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        if 2 * len(self._table) > self._most_slots:
            return
        old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
        for value in old:
            if value:
                self._table[self._place(value)] = value


def row_hash(row: Row) -> int:
    """Of eight bytes, the same for rows that say the same."""
    digest = blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1  # 0 is an empty place
