"""A model of the hub becomes a registered base: its files go into the store, and its row is written last."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tunesmith.service.audit import store as audit
from tunesmith.service.audit.actions import Action
from tunesmith.service.blobs import intake
from tunesmith.service.blobs import store as blob_rows
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.tables import Model
from tunesmith.service.database.transactions import Database
from tunesmith.service.models import registry, store
from tunesmith.service.models.hub_repository import Hub, HubFile, Listing
from tunesmith.service.models.schemas import FetchModel, RegisterModel
from tunesmith.service.settings import Settings
from tunesmith.service.web.auth import Caller
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Forbidden, HubFailed, InvalidRequest, NotFound, TooLarge
from tunesmith.tuning.messages import FileRef
from tunesmith.tuning.models.files import (
    COMPANIONS,
    CONFIG,
    LARGEST_OTHER_BYTES,
    SINGLE_WEIGHTS,
    WEIGHTS_INDEX,
    check_model_file,
)
from tunesmith.tuning.models.hub import is_repository, is_revision
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.values.json_objects import Json

_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_at_once = asyncio.Semaphore(2)  # of this process: models are large, and each is fetched by one connection


@dataclass
class Fetch:
    """How far it has come."""

    total_bytes: int
    fetched_bytes: int = 0


@dataclass(frozen=True)
class HubModels:
    """What fetching needs of the service."""

    settings: Settings
    database: Database
    blobs: BlobStore
    hub: Hub

    async def find(self, asked: FetchModel, *, caller: Caller) -> Model | None:
        """The model if it is there already; no hub is asked then."""
        _check_name(asked)
        async with self.database.transaction() as session:
            try:
                model = await store.find(session, asked.id, project=caller.project)
            except NotFound:
                model = None
        if model is not None and model.status == "ready" and _is_of(model, asked.revision):
            return model
        check_allowed(asked.id, self.settings.hub_models)
        return None

    async def look(self, asked: FetchModel) -> Listing:
        """What will be fetched, looked at before any weight is: whole, not too large, of a family that is known.

        Raises:
            HubFailed, InvalidRequest, TooLarge: it will not be; nothing has been kept.
        """
        found = await self.hub.listing(asked.id, revision=asked.revision or "main")
        listing = Listing(found.hub, model_files(found))
        total_bytes = sum(file.bytes for file in listing.files)
        if total_bytes > self.settings.max_hub_model_bytes:
            message = f"{asked.id} has {total_bytes:,} bytes; the most is {self.settings.max_hub_model_bytes:,}."
            hint = "Its operator can raise TUNESMITH_MAX_HUB_MODEL_BYTES."
            raise TooLarge(message, param="id", hint=hint)
        free_bytes = await self.blobs.free_bytes()
        if free_bytes is not None and total_bytes > free_bytes:
            message = f"{asked.id} has {total_bytes:,} bytes; the object store has {free_bytes:,} left."
            raise InvalidRequest(message, code=ErrorCode.DISK_FULL, param="id", hint="Its operator has to free space.")
        ModelShape.from_config(await self._config(listing))
        return listing

    async def fetch(self, listing: Listing, progress: Fetch, *, caller: Caller) -> Model:
        """Take the files that the store lacks, then write the model's row. Until then there is no such model."""
        async with _at_once:
            files = tuple([await self._take(listing, file, progress) for file in listing.files])
        config = json.loads(await self._stored(next(file for file in files if file.name == CONFIG)))
        wanted = RegisterModel(name=listing.hub.id, files=files, config=config, hub=listing.hub)
        async with self.database.transaction() as session:
            model, missing = await registry.register(session, wanted, blobs=self.blobs)
            if missing:
                raise HubFailed("Files that were fetched are gone from the store.", http_status=503, hint="Ask again.")
            commit = listing.hub.commit
            audit.record(session, caller.actor, Action.MODEL_FETCHED, model.name, digest=model.digest, commit=commit)
        return model

    async def _config(self, listing: Listing) -> Json:
        file = next(file for file in listing.files if file.name == CONFIG)
        try:
            config = json.loads(await _whole(self.hub.stream(listing, file)))
        except (ValueError, RecursionError):
            config = None
        if not isinstance(config, dict):
            raise InvalidRequest("config.json is no JSON object.", code=ErrorCode.BROKEN_MODEL, param="id")
        return config

    async def _take(self, listing: Listing, file: HubFile, progress: Fetch) -> FileRef:
        """One file into the store, unless it is there."""
        stream = _counted(self.hub.stream(listing, file), progress)
        if file.sha256 is None:
            data = await _whole(stream)
            sha256 = await intake.write_bytes(self.database, self.blobs, data)
        elif await self._is_stored(file):
            sha256, progress.fetched_bytes = file.sha256, progress.fetched_bytes + file.bytes
        else:
            sha256 = file.sha256
            await intake.write_stream(self.database, self.blobs, sha256, stream, limit_bytes=file.bytes)
        async with self.database.transaction() as session:
            await blob_rows.record(session, sha256=sha256, length_bytes=file.bytes)
        return FileRef(name=file.name, sha256=sha256, bytes=file.bytes)

    async def _is_stored(self, file: HubFile) -> bool:
        ref = FileRef(name=file.name, sha256=str(file.sha256), bytes=file.bytes)
        async with self.database.transaction() as session:
            return not await blob_rows.missing(session, (ref,))

    async def _stored(self, file: FileRef) -> bytes:
        return await _whole(self.blobs.read(file.sha256, start=0, end=file.bytes))


def check_allowed(identifier: str, patterns: tuple[str, ...]) -> None:
    """Refuse what the operator has not listed.

    Raises:
        Forbidden: naming the setting.
    """
    if any(fnmatchcase(identifier, pattern) for pattern in patterns):
        return
    message = f"{identifier} is none of the models that this service fetches from the hub."
    if not patterns:
        message = f"{identifier} is not registered, and this service fetches no models from the hub."
    hint = f"Its operator can list it in TUNESMITH_HUB_MODELS, as {identifier} or {identifier.partition('/')[0]}/*."
    raise Forbidden(message, code=ErrorCode.HUB_MODEL_NOT_ALLOWED, param="id", hint=hint)


def model_files(listing: Listing) -> tuple[HubFile, ...]:
    """Of all files of a commit those of a model: safetensors, tokenizer and config, in the repository's root.

    Raises:
        InvalidRequest: they are not all there, or one of them has an absurd size.
    """
    files = {file.name: file for file in listing.files}
    names = sorted(COMPANIONS & files.keys())
    chosen = [files[name] for name in (*names, *_weights(listing.hub.id, files))]
    if CONFIG not in names:
        raise _incomplete(f"{listing.hub.id} has no config.json.")
    for file in chosen:
        check_model_file(file.name, length_bytes=file.bytes)
        is_promised = file.sha256 is not None and _SHA256.fullmatch(file.sha256)
        if not is_promised and (file.sha256 is not None or file.bytes > LARGEST_OTHER_BYTES):
            raise _incomplete(f"The hub gives no SHA-256 for {file.name}, which has {file.bytes:,} bytes.")
    return tuple(chosen)


def _weights(identifier: str, files: dict[str, HubFile]) -> list[str]:
    if WEIGHTS_INDEX not in files:
        if SINGLE_WEIGHTS not in files:
            raise _incomplete(f"{identifier} has no weights as safetensors.")
        return [SINGLE_WEIGHTS]
    shards = [(match[0], int(match[1])) for name in sorted(files) if (match := _SHARD.fullmatch(name))]
    if not shards or any(count != len(shards) for _, count in shards):
        raise _incomplete(f"{identifier} has {len(shards)} shards of weights, and not those that their names promise.")
    return [WEIGHTS_INDEX, *(name for name, _ in shards)]


def _incomplete(message: str) -> InvalidRequest:
    hint = "Choose another repository, or let an admin register it: tunesmith models add NAME --hub ID."
    return InvalidRequest(message, code=ErrorCode.INCOMPLETE_MODEL, param="id", hint=hint)


def _check_name(asked: FetchModel) -> None:
    if not is_repository(asked.id):
        hint = "Write it like OWNER/NAME."
        raise InvalidRequest(f"{asked.id!r:.140} is no name of a hub's repository.", param="id", hint=hint)
    if asked.revision is not None and not is_revision(asked.revision):
        hint = "Name a branch, a tag or a commit."
        raise InvalidRequest(f"{asked.revision!r:.140} is no revision.", param="revision", hint=hint)


def _is_of(model: Model, revision: str | None) -> bool:
    return revision is None or (model.hub or {}).get("commit") == revision


async def _counted(stream: AsyncIterator[bytes], progress: Fetch) -> AsyncIterator[bytes]:
    async for chunk in stream:
        progress.fetched_bytes += len(chunk)
        yield chunk


async def _whole(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in stream])
