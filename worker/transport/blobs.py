"""Moving one file between this host and the object store, by hash and streamed: memory does not grow with size."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import httpx2

from tunesmith.faults import Point, fault_point
from tunesmith.tuning.messages import FileRef
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.transport.retry import Unavailable
from tunesmith.worker.transport.wire import raise_for, send

CHUNK_BYTES = 1024**2


class HashMismatch(Unavailable):
    """The bytes that arrived are not those that were asked for: fetched anew, because the wire may be at fault."""


def file_ref(path: Path, *, name: str) -> FileRef:
    """Describe a file that lies here, under the name it shall have."""
    return FileRef(name=name, sha256=sha256_of(path), bytes=path.stat().st_size)


def download(client: httpx2.Client, path: str, file: FileRef, target: Path, *, check: Callable[[], None]) -> None:
    """Fetch a blob aside, verify it, and rename it to `target`. A broken transfer goes on where it stopped.

    Raises:
        Unavailable: the transfer broke; what arrived is kept for the next call.
        HashMismatch: all bytes came and are wrong; they are thrown away.
        NotFound: this job may not read such a blob.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    with aside.open("ab") as partial:
        _fetch(client, path, partial, check)
        partial.flush()
        os.fsync(partial.fileno())
    if sha256_of(aside) != file.sha256:
        aside.unlink()
        raise HashMismatch(f"{file.name} arrived with a wrong hash")
    aside.rename(target)


def _fetch(client: httpx2.Client, path: str, partial: IO[bytes], check: Callable[[], None]) -> None:
    start = partial.tell()
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={start}-"} if start else {})
    try:
        with client.stream("GET", path, headers=headers, follow_redirects=True) as response:
            if response.status_code == 416:  # there is nothing after `start`: everything is here already
                return
            if not response.is_success:
                response.read()
            raise_for(response)
            if response.status_code != 206:
                partial.truncate(0)
            for chunk in response.iter_raw():
                check()
                partial.write(chunk)
    except httpx2.TransportError as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error


def upload(client: httpx2.Client, path: str, file: FileRef, source: Path, *, check: Callable[[], None]) -> None:
    """Send a file under its hash; the service verifies it.

    Raises:
        FileNotFoundError: the file is gone.
        Unavailable: the transfer broke.
    """
    if not source.exists():
        raise FileNotFoundError(source)
    headers = {"content-length": str(file.bytes), "content-type": "application/octet-stream"}
    send(client, "PUT", path, content=_chunks(source, check), headers=headers)


def _chunks(source: Path, check: Callable[[], None]) -> Iterator[bytes]:
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            check()
            yield chunk
            fault_point(Point.MID_UPLOAD)
