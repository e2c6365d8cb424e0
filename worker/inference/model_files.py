"""Bases and adapters on this host's disk, by content: looked at again before each use, fetched anew if altered."""

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import structlog

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound, TunesmithError, Unserved
from tunesmith.tuning.inference_messages import ModelFiles
from tunesmith.worker.transport.model_cache import FileSource, ModelCache
from tunesmith.worker.transport.retry import Unavailable

log = structlog.get_logger(__name__)


class ModelFolders:
    """The folders that engines load from. Trainers of the host share the bases; adapters are kept up to a size."""

    def __init__(self, source: FileSource, *, bases: Path, adapters: Path, adapter_bytes: int) -> None:
        self._source = source
        self._bases, self._adapters = ModelCache(bases), ModelCache(adapters)
        self._adapter_root = adapters
        self._adapter_bytes = adapter_bytes
        self._fetching: dict[str, asyncio.Lock] = {}
        self._used: dict[str, None] = {}  # digests of adapters, that of the last use at the end
        self._wanted: Counter[str] = Counter()  # how many want an adapter at this moment, by its digest

    async def base(self, model: ModelFiles) -> Path:
        """The folder of a base."""
        return await self._fetch(self._bases, model)

    async def adapter(self, model: ModelFiles) -> Path:
        """The folder of an adapter, every file of which has just been found right."""
        folder = await self._fetch(self._adapters, model)
        self._used.pop(model.digest, None)
        self._used[model.digest] = None
        return folder

    @contextlib.contextmanager
    def wanted(self, model: ModelFiles) -> Iterator[None]:
        """The files of an adapter stay until the block ends: its base may have to be loaded first, for minutes."""
        self._wanted[model.digest] += 1
        try:
            yield
        finally:
            self._wanted[model.digest] -= 1

    async def surplus(self) -> list[str]:
        """Digests of the adapters beyond the size that is kept, those used longest ago first; none that is wanted."""
        sizes = await asyncio.to_thread(_sizes, self._adapter_root)
        order = [*(digest for digest in sizes if digest not in self._used), *self._used]
        total, found = sum(sizes.values()), []
        for digest in order[:-1]:
            if total <= self._adapter_bytes:
                break
            if not self._wanted[digest]:
                total -= sizes.get(digest, 0)
                found.append(digest)
        return found

    async def drop_adapter(self, digest: str) -> None:
        """Delete its files, unless somebody wants them by now. Whoever comes later fetches them anew."""
        async with self._turn(digest):
            if not self._wanted[digest]:
                self._used.pop(digest, None)
                await asyncio.to_thread(shutil.rmtree, self._adapter_root / digest, ignore_errors=True)

    async def _fetch(self, cache: ModelCache, model: ModelFiles) -> Path:
        """One thread at a time for a set: whoever else wants it would only wait in another."""
        async with self._turn(model.digest):
            try:
                return await asyncio.to_thread(cache.fetch, model.files, self._source)
            except NotFound:
                raise NotFound(
                    f"The model {model.name!r} does not exist.", code=ErrorCode.MODEL_NOT_FOUND, param="model"
                ) from None
            except (Unavailable, OSError, TunesmithError) as error:
                log.warning("model.not_fetched", model=model.name, reason=str(error))
                raise Unserved(f"The files of {model.name!r} cannot be fetched now: {error}") from error

    def _turn(self, digest: str) -> asyncio.Lock:
        return self._fetching.setdefault(digest, asyncio.Lock())


def _sizes(root: Path) -> dict[str, int]:
    """Bytes by folder name, the folders that were made first at the beginning."""
    found = []
    for folder in root.glob("[0-9a-f]*/"):
        with contextlib.suppress(FileNotFoundError):  # an altered one is fetched anew at this moment
            held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            found.append((folder.stat().st_mtime, folder.name, held))
    return {name: held for _, name, held in sorted(found)}
