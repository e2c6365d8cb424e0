"""Brings a job's results to a folder: written aside, verified, then renamed; no name can lead out of the folder."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from tunesmith.cli.client import Client, ServiceError
from tunesmith.cli.models.hashing import sha256_of
from tunesmith.cli.progress import transfer
from tunesmith.tuning.api.base import recorded
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound
from tunesmith.tuning.messages import FileRef


class UnsafeName(InvalidRequest):
    """The service named a file that would be written outside the folder."""

    code = ErrorCode.UNSAFE_FILE_NAME


class DamagedDownload(ServiceError):
    """The bytes are not those that were promised."""

    code = ErrorCode.DAMAGED_DOWNLOAD


def pull_artifacts(client: Client, job_id: str, *, folder: Path, kind: str | None = None) -> list[Path]:
    """Write every file of the job's artifacts to `folder/KIND/NAME`; files that are already right are not sent again.

    Raises:
        NotFound: the job has no such result.
        UnsafeName: a name would leave the folder; nothing has been written then.
        DamagedDownload: a file's hash is not the one the service recorded.
    """
    artifacts = [artifact for artifact in client.artifacts(job_id) if kind in (None, artifact.kind)]
    if not artifacts:
        what = f"a result of kind {kind}" if kind else "results"
        raise NotFound(f"{job_id} has no {what} yet.", hint=f"see how far it is: tunesmith get {job_id}")
    wanted = [
        (artifact.id, file, safe_target(folder / safe_part(artifact.kind), file.name))
        for artifact in artifacts
        for file in (recorded(FileRef, file) for file in artifact.files)
    ]
    total_bytes = sum(file.bytes for _, file, _ in wanted)
    with transfer(f"pull {len(wanted)} files", total_bytes=total_bytes) as advance:
        for artifact_id, file, target in wanted:
            _pull(client, artifact_id, file, target, advance=advance)
    return [target for _, _, target in wanted]


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
        raise UnsafeName(
            f"{target} leads out of {folder} through a link.", param="name", hint="choose another --output"
        )
    return target


def safe_part(text: str) -> str:
    """A single folder name.

    Raises:
        UnsafeName: it is not one.
    """
    if text in ("", ".", "..") or any(sign in text for sign in "/\\\0:"):
        raise UnsafeName(f"The service names a kind {text!r}, which is no folder name.", param="kind")
    return text


def _pull(client: Client, artifact_id: str, file: FileRef, target: Path, *, advance: Callable[[int], None]) -> None:
    if target.is_file() and target.stat().st_size == file.bytes and sha256_of(target) == file.sha256:
        advance(file.bytes)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        found = _receive(client, artifact_id, file.name, aside, advance=advance)
        if found != file.sha256:
            raise DamagedDownload(
                f"{file.name} arrived with sha256 {found}, {file.sha256} was promised.",
                http_status=500,
                hint="try again; if it stays, the object store is damaged",
            )
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _receive(client: Client, artifact_id: str, name: str, path: Path, *, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with client.artifact_file(artifact_id, name) as pieces, path.open("wb") as out:
        for piece in pieces:
            out.write(piece)
            digest.update(piece)
            advance(len(piece))
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()
