"""The file by which a machine that has joined knows its service: address, key and name, for its owner alone."""

import os
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from pydantic import Field, ValidationError

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.values.base import Value

_FILE = "membership.json"
_VARIABLES = {"url": "TUNESMITH_URL", "key": "TUNESMITH_WORKER_KEY"}


class DamagedMembership(TunesmithError):
    """The file cannot be used."""

    code = ErrorCode.INVALID_VALUE


class Membership(Value):
    """A service that this machine works for."""

    url: str = Field(pattern=r"^https?://")
    key: str = Field(repr=False)
    name: str


def default_work_dir(environment: Mapping[str, str]) -> Path:
    """TUNESMITH_WORK_DIR, else a folder of the user's data."""
    if named := environment.get("TUNESMITH_WORK_DIR"):
        return Path(named).expanduser()
    shared = environment.get("XDG_DATA_HOME")
    return (Path(shared) if shared else Path.home() / ".local" / "share") / "tunesmith-worker"


def remember(work_dir: Path, membership: Membership) -> Path:
    """Write the file in one step, readable by its owner from the first moment on."""
    work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, aside = tempfile.mkstemp(dir=work_dir, prefix=f".{_FILE}.")  # which makes it 0600
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(membership.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return Path(aside).rename(work_dir / _FILE)


def read(work_dir: Path) -> Membership | None:
    """What this machine has joined; None where it has joined nothing.

    Raises:
        DamagedMembership: the file is not what `remember` writes.
    """
    path = work_dir / _FILE
    try:
        return Membership.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        raise DamagedMembership(f"{path} cannot be read.", hint="Join again: ask an admin for a new line.") from error


def complete(environment: MutableMapping[str, str]) -> Membership | None:
    """Add to the settings what they leave open: the work directory, and address and key as this machine has joined.

    Returns what was joined, unless the settings have a key themselves: an address alone may be that of a client, as
    `tunesmith env` sets it, and the key of this machine is for the service that it has joined.

    TUNESMITH_WORKER_KEY_FILE may name a file that holds the key, as containers like it.

    Raises:
        DamagedMembership: the file is there and cannot be read.
    """
    work_dir = default_work_dir(environment)
    environment["TUNESMITH_WORK_DIR"] = str(work_dir)
    if "TUNESMITH_WORKER_KEY" not in environment and (file := environment.get("TUNESMITH_WORKER_KEY_FILE")):
        environment["TUNESMITH_WORKER_KEY"] = _key_in(Path(file))
    membership = read(work_dir)
    if membership is None or "TUNESMITH_WORKER_KEY" in environment:
        return None
    environment.update({variable: getattr(membership, name) for name, variable in _VARIABLES.items()})
    return membership


def _key_in(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise DamagedMembership(
            f"{path} cannot be read: {error.strerror}.",
            param="TUNESMITH_WORKER_KEY_FILE",
            hint="Name a file that holds a worker's key.",
        ) from error
