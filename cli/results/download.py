"""Brings files to a folder: written aside, verified, then renamed; no name of the service leads out of the folder."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tunesmith.cli.client import ServiceError
from tunesmith.cli.models.hashing import sha256_of
from tunesmith.cli.progress import transfer
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.messages import FileRef
from tunesmith.tuning.values.units import plural


class UnsafeName(InvalidRequest):
    """The service named a file that would be written outside the folder."""

    code = ErrorCode.UNSAFE_FILE_NAME


class DamagedDownload(ServiceError):
    """The bytes are not those that were promised."""

    code = ErrorCode.DAMAGED_DOWNLOAD


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file to fetch: what it must be, where it goes, and how its bytes are asked for."""

    file: FileRef
    target: Path
    open: Callable[[], AbstractContextManager[Iterator[bytes]]]


def fetch(downloads: Sequence[Download]) -> list[Path]:
    """Write every file and return their paths; those that are already right are not sent again.

    Raises:
        DamagedDownload: a file's hash is not the one the service recorded.
    """
    if not downloads:
        return []
    total_bytes = sum(wanted.file.bytes for wanted in downloads)
    with transfer(f"pull {plural(len(downloads), 'file')}", total_bytes=total_bytes) as advance:
        for wanted in downloads:
            _fetch(wanted, advance=advance)
    return [wanted.target for wanted in downloads]


def safe_target(folder: Path, name: str) -> Path:
    """`folder/name`, for a relative name without tricks.

    Raises:
        UnsafeName: the name is absolute, empty, climbs, or has characters that other systems read as separators.
    """
    parts = PurePosixPath(name).parts
    is_tricky = not parts or name.startswith("/") or ".." in parts or any(sign in name for sign in "\\\0:")
    if is_tricky:
        raise UnsafeName(f"The service names a file {name!r}, which does not stay inside {folder}.", param="name")
    target = folder.joinpath(*parts)
    if not target.resolve().is_relative_to(folder.resolve()):
        raise UnsafeName(f"{target} leads out of {folder} through a link.", param="name", hint="choose another --to")
    return target


def safe_part(text: str) -> str:
    """A single folder name.

    Raises:
        UnsafeName: it is not one.
    """
    if text in ("", ".", "..") or any(sign in text for sign in "/\\\0:"):
        raise UnsafeName(f"The service names a kind {text!r}, which is no folder name.", param="kind")
    return text


def _fetch(wanted: Download, *, advance: Callable[[int], None]) -> None:
    file, target = wanted.file, wanted.target
    if target.is_file() and target.stat().st_size == file.bytes and sha256_of(target) == file.sha256:
        advance(file.bytes)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        found = _receive(wanted, aside, advance=advance)
        if found != file.sha256:
            raise DamagedDownload(
                f"{file.name} arrived with sha256 {found}, {file.sha256} was promised.",
                http_status=500,
                hint="try again; if it stays, the object store is damaged",
            )
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _receive(wanted: Download, path: Path, *, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with wanted.open() as pieces, path.open("wb") as out:
        for piece in pieces:
            out.write(piece)
            digest.update(piece)
            advance(len(piece))
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()
