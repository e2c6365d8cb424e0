"""The object store, addressed by content: the bytes with hash `ab12...` are the object `blobs/ab/ab12...`."""

import asyncio
import hashlib
import logging
import math
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store, from_url

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, TooLarge, TunesmithError

if TYPE_CHECKING:
    from obstore.store import ClientConfig

_log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PARTIAL = re.compile(r"[0-9a-f]{64}#\d+")  # how obstore names a local object that is not complete
_CHUNK_BYTES = 1024 * 1024
SIGNED_FROM_BYTES = 1024**2  # smaller ones are answered sooner than a second request is made
_SIGNED_FOR = timedelta(minutes=5)  # to begin in; a download that has begun goes on
_RETRIES = 3
_RETRY_TIME = timedelta(seconds=10)  # then the client is told, rather than left to wait for minutes
# A request may be long; what ends it is silence. That of one which is being sent counts as silence: 5 MiB at most.
_TIMES: dict[str, timedelta | str] = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=20),
    "timeout": timedelta(hours=12),
}
_PROVIDERS = ("AWS", "GOOGLE", "AZURE")
_VARIABLES = ("allow_http", "allow_invalid_certificates", "proxy_url", "proxy_ca_certificate", "proxy_excludes")
_UNUSABLE = ("Read-only file system", "os error 30", "Input/output error", "os error 5)")
_FULL = ("No space left", "os error 28", "Disk quota exceeded")


class StoreUnavailable(TunesmithError):
    """The object store is away, refuses or is full for the moment; nothing was changed, and trying again may help."""

    code = ErrorCode.OBJECT_STORE_UNAVAILABLE
    http_status = 503


class BlobStore:
    """Bytes that are either there completely, under their own hash, or not there."""

    def __init__(
        self, store: ObjectStore, *, folder: Path | None = None, signs: S3Store | GCSStore | AzureStore | None = None
    ) -> None:
        self._store = store
        self._signs = signs  # makes addresses under which whoever has them may read one object for a while
        self._folder = folder  # of a store on a disk of this machine

    @classmethod
    def from_url(cls, url: str, *, signed_downloads: bool = False) -> "BlobStore":
        """Open `file:///dir` (made when missing), `s3://bucket/prefix`, or what else obstore knows.

        `signed_downloads` has no effect on a store that nobody but this service can read from. Raises StoreUnavailable
        where a folder cannot be made.
        """
        if url.startswith("file://"):
            folder = Path(unquote(urlsplit(url).path))
            try:
                return cls(from_url(url, mkdir=True), folder=folder)
            except OSError as error:
                hint = "let TUNESMITH_STORE name a folder that this user may write to"
                raise StoreUnavailable(
                    f"The folder {folder} cannot be used as the store: {error}.", hint=hint
                ) from error
        store = from_url(
            url,
            client_options=_client_options(os.environ),
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY_TIME},
        )
        return cls(
            store, signs=store if signed_downloads and isinstance(store, S3Store | GCSStore | AzureStore) else None
        )

    async def write_stream(self, sha256: str, stream: AsyncIterator[bytes], *, limit_bytes: int) -> int:
        """Store a stream under its promised hash and return its length; one that breaks the promise leaves nothing.

        Raises:
            InvalidRequest: the bytes do not have that hash.
            TooLarge: there are more of them than the limit.
            StoreUnavailable: they could not be stored; so do all methods that touch the store.
        """
        verified = _Verified(stream, sha256=check_name(sha256), limit_bytes=limit_bytes)
        with _explained():
            await obstore.put_async(self._store, path_of(sha256), verified.chunks())
        return verified.length_bytes

    async def write_file(self, file: BinaryIO, *, sha256: str) -> None:
        """Store a local file whose hash is known, from its start."""
        file.seek(0)
        with _explained():
            await obstore.put_async(self._store, path_of(sha256), file)

    async def write_bytes(self, data: bytes) -> str:
        """Store a small value and return its hash."""
        sha256 = hashlib.sha256(data).hexdigest()
        with _explained():
            await obstore.put_async(self._store, path_of(sha256), data)
        return sha256

    async def read(self, sha256: str, *, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` up to, not including, `end`."""
        if start == end:
            return
        with _explained():
            found = await obstore.get_async(self._store, path_of(sha256), options={"range": (start, end)})
            async for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
                yield bytes(chunk)

    async def signed_url(self, sha256: str, *, length_bytes: int) -> str | None:
        """Where the store itself sends a large object for some minutes; None where it passes through the service."""
        if self._signs is None or length_bytes < SIGNED_FROM_BYTES:
            return None
        with _explained():
            return await obstore.sign_async(self._signs, "GET", path_of(sha256), _SIGNED_FOR)

    async def exists(self, sha256: str) -> bool:
        """Whether the store has it, whatever the database believes."""
        try:
            with _explained():
                await obstore.head_async(self._store, path_of(sha256))
        except FileNotFoundError:
            return False
        return True

    async def delete(self, sha256: str) -> None:
        """Delete the bytes, if they are there."""
        with suppress(FileNotFoundError), _explained():
            await obstore.delete_async(self._store, path_of(sha256))

    async def delete_partial_uploads(self, *, older_than: timedelta) -> int:
        """Delete what killed uploads to a local store left and that has not grown for so long; returns how many.

        A bucket deletes its own by a rule of its lifecycle.
        """
        if self._folder is None:
            return 0
        return await asyncio.to_thread(_delete_partial, self._folder, older_than)

    async def free_bytes(self) -> int | None:
        """Free space of the disk that a local store lies on; None elsewhere, where nobody can tell."""
        if self._folder is None:
            return None
        return (await asyncio.to_thread(shutil.disk_usage, self._folder)).free

    async def probe(self) -> None:
        """Write and delete a small object where the others are; raises whatever the store raises."""
        path = f"blobs/probes/{uuid4().hex}"
        await obstore.put_async(self._store, path, b"ok")
        await obstore.delete_async(self._store, path)


@contextmanager
def _explained() -> Iterator[None]:
    """The store's own errors in the words of this service. That an object is not there is none of them."""
    try:
        yield
    except (BaseError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise unavailable(error) from error


def unavailable(error: Exception) -> StoreUnavailable:
    """What a client is told about an error of the store; the log has the store's own words."""
    _log.warning("the object store failed: %s", str(error).partition("\n")[0])
    if any(sign in str(error) for sign in _FULL):
        hint = "Its operator has to free space; what was answered with 200 is safe."
        return StoreUnavailable("The object store is full.", code=ErrorCode.DISK_FULL, hint=hint)
    if any(sign in str(error) for sign in _UNUSABLE):
        hint = "Its operator has to look at that disk and at the kernel's log; what was answered with 200 is safe."
        message = "The object store's disk is read-only or fails."
        return StoreUnavailable(message, code=ErrorCode.DISK_UNUSABLE, hint=hint)
    return StoreUnavailable("The object store does not answer as it should. Try again in a moment.")


def _client_options(environment: Mapping[str, str]) -> "ClientConfig":
    """Ours, and what a provider's variables say about connections: beside ours obstore would pass them over."""
    variables = {f"{provider}_{name.upper()}": name for provider in _PROVIDERS for name in _VARIABLES}
    said = {name: environment[variable] for variable, name in variables.items() if variable in environment}
    return cast("ClientConfig", _TIMES | said)


class _Verified:
    """Passes a stream on and raises at its end when it was not what its name promised, which aborts the upload."""

    def __init__(self, stream: AsyncIterator[bytes], *, sha256: str, limit_bytes: int) -> None:
        self._stream = stream
        self._limit_bytes = limit_bytes
        self._expected = sha256
        self.length_bytes = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        digest = hashlib.sha256()
        async for chunk in self._stream:
            digest.update(chunk)
            self.length_bytes += len(chunk)
            if self.length_bytes > self._limit_bytes:
                raise TooLarge(f"The request body is larger than {self._limit_bytes:,} bytes.")
            if chunk:
                yield chunk
        if digest.hexdigest() != self._expected:
            message = f"The bytes have sha256 {digest.hexdigest()}, not {self._expected}."
            raise InvalidRequest(message, code=ErrorCode.HASH_MISMATCH, param="sha256")


def path_of(sha256: str) -> str:
    """The object's name in the store."""
    return f"blobs/{sha256[:2]}/{sha256}"


def check_name(sha256: str) -> str:
    """Return `sha256` when it is one.

    Raises:
        InvalidRequest: it is not 64 lower-case hexadecimal digits.
    """
    if not _SHA256.fullmatch(sha256):
        raise InvalidRequest("A blob is named by its sha256: 64 lower-case hexadecimal digits.", param="sha256")
    return sha256


def _delete_partial(folder: Path, older_than: timedelta) -> int:
    oldest = time.time() - older_than.total_seconds()
    found = [path for path in (folder / "blobs").glob("*/*#*") if _PARTIAL.fullmatch(path.name)]
    left = [path for path in found if _grew_at(path) < oldest]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def _grew_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # it is complete now and has its own name
        return math.inf
