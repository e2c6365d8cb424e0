"""Which service to talk to, and with which key: from the environment, or from what `tunesmith up` left on disk."""

import contextlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError

FILE_NAME = "connection.json"
LOCK_NAME = "up.lock"  # held while `tunesmith up` runs: the kernel drops it however that ends


class NotConnected(TunesmithError):
    """No service is known here."""

    code = ErrorCode.NOT_CONNECTED
    http_status = 503


class NoKey(NotConnected):
    """The address of a service is known, and no key for it."""

    http_status = 401


@dataclass(frozen=True, kw_only=True)
class Connection:
    """`base_url` ends in /v1, as the openai client wants it. The key stays out of reprs and logs.

    `data_dir` is where `tunesmith up` left it, and `worker_url` what it said is the address for workers.
    """

    base_url: str
    api_key: str = field(repr=False)
    worker_url: str | None = None
    data_dir: Path | None = field(default=None, compare=False)


def default_data_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """TUNESMITH_DATA_DIR, else ~/.local/share/tunesmith (or its place under XDG_DATA_HOME)."""
    if named := environment.get("TUNESMITH_DATA_DIR"):
        return Path(named).expanduser()
    shared = environment.get("XDG_DATA_HOME")
    return (Path(shared) if shared else Path.home() / ".local" / "share") / "tunesmith"


def data_dir_option(data_dir: Path) -> str:
    """` --data-dir PLACE` for a line that a shell is to be given; empty for the default one."""
    is_default = data_dir.resolve() == default_data_dir().expanduser().resolve()
    return "" if is_default else f" --data-dir {shlex.quote(str(data_dir))}"


def find_connection(environment: Mapping[str, str] = os.environ, *, data_dir: Path | None = None) -> Connection:
    """The first of: a given `data_dir`, TUNESMITH_URL with TUNESMITH_API_KEY, the default data directory.

    Variables of other clients decide nothing: OPENAI_BASE_URL may be set for a service that must not see the data.

    Raises:
        NotConnected: there is none, or only one of the two variables is set.
    """
    if data_dir is not None:
        return read_connection(data_dir) or _nothing_in(data_dir)
    return (
        _from_environment(environment)
        or read_connection(default_data_dir(environment))
        or _nothing_in(default_data_dir(environment))
    )


def read_connection(data_dir: Path) -> Connection | None:
    """What `tunesmith up` wrote for `data_dir`; None when it does not run there.

    Raises:
        NotConnected: the file is damaged, or was left by one that was killed: another program may have its port now,
            and the key is not for that.
    """
    path = data_dir / FILE_NAME
    try:
        if _is_left_over(data_dir):
            raise _gone(data_dir)
        stored = json.loads(path.read_text(encoding="utf-8"))
        known = {name: str(stored[name]) for name in ("base_url", "api_key")}
        return Connection(**known, worker_url=stored.get("worker_url"), data_dir=data_dir)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise NotConnected(
            f"{path} belongs to another user.", hint="ask for a key, and set TUNESMITH_API_KEY"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotConnected(
            f"{path} cannot be read: {error}.", hint="start `tunesmith up` again: it rewrites it"
        ) from error


def write_connection(data_dir: Path, connection: Connection) -> Path:
    """Write connection.json, readable by its owner only, in one step."""
    path = data_dir / FILE_NAME
    stored = {name: value for name, value in asdict(connection).items() if name != "data_dir"}
    write_secret(path, json.dumps(stored, indent=2) + "\n")
    return path


def forget_connection(data_dir: Path) -> None:
    """Remove connection.json: nothing answers there any more."""
    with contextlib.suppress(OSError):
        (data_dir / FILE_NAME).unlink()


def write_secret(path: Path, text: str) -> None:
    """Write a file that nobody but its owner can ever read, not even between creation and chmod."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def with_version(url: str) -> str:
    """`http://host:8100` and `http://host:8100/v1/` both mean `http://host:8100/v1`."""
    trimmed = url.rstrip("/")
    return trimmed if trimmed.endswith("/v1") else f"{trimmed}/v1"


def _from_environment(environment: Mapping[str, str]) -> Connection | None:
    # Secrets of pipelines often end with a line's end, which no header may hold.
    url, key = (environment.get(name, "").strip() for name in ("TUNESMITH_URL", "TUNESMITH_API_KEY"))
    if url and key:
        return Connection(base_url=with_version(url), api_key=key)
    if url:
        hint = "set both, or neither; pipelines of pull requests from forks are given no secrets"
        raise NoKey("TUNESMITH_URL is set, TUNESMITH_API_KEY is not.", hint=hint)
    if key:
        raise NotConnected("TUNESMITH_API_KEY is set, TUNESMITH_URL is not.", hint="set both, or neither")
    return None


def _is_left_over(data_dir: Path) -> bool:
    """Whether nobody holds the lock, though there is one. To look takes it for an instant, which `up` waits for."""
    import fcntl  # not on every system that a client runs on, and wanted only where there is a lock

    with contextlib.suppress(FileNotFoundError, NotADirectoryError), (data_dir / LOCK_NAME).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
    return False


def _gone(data_dir: Path) -> NotConnected:
    started = datetime.fromtimestamp((data_dir / FILE_NAME).stat().st_mtime, UTC)
    return NotConnected(
        f"No service is running in {data_dir}: it was started at {started:%Y-%m-%d %H:%M} UTC, and is gone.",
        hint=f"start it again with `tunesmith up{data_dir_option(data_dir)}`: jobs, files and models are still there",
    )


def _nothing_in(data_dir: Path) -> Connection:
    raise NotConnected(
        f"No service is running from {data_dir}, and TUNESMITH_URL with TUNESMITH_API_KEY is not set.",
        hint="start one with `tunesmith up`, or set both variables",
    )
