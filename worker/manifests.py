"""What makes a folder complete: its `manifest.json`, written last; and the one check of a checkpoint against it."""

import hashlib
from pathlib import Path

from pydantic import Field, ValidationError

from tunesmith.tuning.values.base import Value
from tunesmith.worker.hashes import sha256_of

MANIFEST = "manifest.json"  # of a checkpoint and of a result: a folder that has one is complete


class CorruptCheckpoint(Exception):
    """The folder is not the checkpoint that its manifest, or its registration, promises."""


class ManifestFile(Value):
    """One file of a checkpoint as it was written."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class CheckpointManifest(Value):
    """Written last into a checkpoint folder. `files` are those that lie directly in the folder, by name."""

    step: int
    files: dict[str, ManifestFile]
    metrics: dict[str, float] = {}
    world_size: int = 1
    versions: dict[str, str] = {}


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` optimizer steps; sorts by step."""
    return f"step-{step:08d}"


def verify_checkpoint(folder: Path, *, manifest_sha256: str | None = None) -> CheckpointManifest:
    """Read the manifest of a checkpoint, check name, size and SHA-256 of every file by it, and return it.

    Worker and trainer call this one function, so that neither uses what the other would refuse.

    Raises:
        CorruptCheckpoint: a file is missing, cut off or altered, or the manifest is broken or not the registered one.
    """
    content = _read_manifest(folder)
    if manifest_sha256 is not None and hashlib.sha256(content).hexdigest() != manifest_sha256:
        raise CorruptCheckpoint("its manifest is not the registered one")
    try:
        manifest = CheckpointManifest.model_validate_json(content)
    except ValidationError as error:
        raise CorruptCheckpoint("its manifest cannot be read") from error
    for name, written in manifest.files.items():
        _check_file(folder, name, written)
    return manifest


def _read_manifest(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise CorruptCheckpoint("it has no manifest") from None
    except OSError as error:
        raise CorruptCheckpoint(f"its manifest cannot be read: {error}") from error


def _check_file(folder: Path, name: str, written: ManifestFile) -> None:
    if Path(name).name != name:
        raise CorruptCheckpoint(f"{name!r} is not the name of a file in it")
    file = folder / name
    try:
        is_right = (
            file.is_file()
            and not file.is_symlink()
            and file.stat().st_size == written.bytes
            and sha256_of(file) == written.sha256
        )
    except OSError as error:
        raise CorruptCheckpoint(f"{name} cannot be read: {error}") from error
    if not is_right:
        raise CorruptCheckpoint(f"{name} is missing or altered")
