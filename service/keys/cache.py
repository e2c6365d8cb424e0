"""Keys that were looked up a moment ago, so that checking one costs no query."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tunesmith.service.database.batches import Batches
from tunesmith.service.database.tables import ApiKey
from tunesmith.service.database.transactions import Database
from tunesmith.service.keys import store
from tunesmith.tuning.values.hashes import sha256_of_text

KEPT_SECONDS: Final = 5.0  # for so long a key may go on to be accepted that another process revoked
_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that was valid when it was looked up."""

    id: str
    name: str
    project: str
    role: str
    lineage: str


class KeyCache:
    """Valid keys alone are kept, by their hash. A key revoked through the same `Database` is refused at once."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._found: OrderedDict[str, tuple[KnownKey, float]] = OrderedDict()
        self._batches: Batches[str, KnownKey] = Batches(self._look_up)
        self._ends: Batches[str, datetime] = Batches(self._look_up_ends)
        self._changes = 0
        database.on_change(ApiKey, self._forget)

    def known(self, key: str) -> KnownKey | None:
        """The key, if it was looked up within the last seconds."""
        found, looked_up_at = self._found.get(sha256_of_text(key), (None, 0.0))
        return found if self._clock() - looked_up_at < KEPT_SECONDS else None

    async def find(self, key: str) -> KnownKey | None:
        """The key unless it is unknown, revoked or expired."""
        return self.known(key) or await self._batches.get(sha256_of_text(key))

    async def ended_at(self, key: str) -> datetime | None:
        """When a key that `find` does not find was revoked or ran out; None for one that never was."""
        return await self._ends.get(sha256_of_text(key))

    async def _look_up(self, hashes: Sequence[str]) -> Mapping[str, KnownKey]:
        looked_up_at, changes = self._clock(), self._changes
        async with self._database.reading() as connection:
            rows = await store.find(connection, hashes)
            if unused := [row.id for row in rows if not row.is_used_lately]:
                await store.touch(connection, unused)
        found = {
            row.key_sha256: KnownKey(id=row.id, name=row.name, project=row.project, role=row.role, lineage=row.lineage)
            for row in rows
        }
        if changes == self._changes:
            for key_sha256, key in found.items():
                self._keep(key_sha256, key, at=looked_up_at)
        return found

    async def _look_up_ends(self, hashes: Sequence[str]) -> Mapping[str, datetime]:
        async with self._database.reading() as connection:
            return {row.key_sha256: row.ended_at for row in await store.find_ends(connection, hashes)}

    def _keep(self, key_sha256: str, key: KnownKey, *, at: float) -> None:
        self._found[key_sha256] = key, at
        self._found.move_to_end(key_sha256)
        if len(self._found) > _KEPT:
            self._found.popitem(last=False)

    def _forget(self, _key_id: str) -> None:
        self._changes += 1  # what is being looked up meanwhile is not kept either
        self._found.clear()
