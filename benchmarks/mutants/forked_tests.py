"""Runs pytest in forks of one process that has the libraries imported: half the time of a fresh interpreter."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

NEVER_ENDED = -1  # where pytest has exit codes
_ROOT = Path(__file__).parents[2]
_LIBRARIES = (
    "pytest", "httpx2", "fastapi", "sqlalchemy.ext.asyncio", "sqlalchemy.dialects.postgresql", "psycopg", "pydantic",
    "structlog", "uvicorn", "celery", "redis", "psutil", "openai", "alembic", "obstore.store",
)  # fmt: skip
_OPTIONS = ("-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(list(_LIBRARIES))


def run_tests(arguments: Sequence[str], copy: Path, *, longest_seconds: float) -> tuple[int, str]:
    """Exit code and output of pytest in a copy of the repository. Nothing that it started is left."""
    output = copy.with_suffix(".out")
    # Of its own: pytest's usual folder is cleaned up by every run on the machine, and two at once fail each other.
    folder = ("--basetemp", str(copy.with_suffix(".tmp")))
    process = _forks.Process(target=_be_pytest, args=((*_OPTIONS, *folder, *arguments), str(copy), str(output)))
    process.start()
    process.join(longest_seconds)
    code = process.exitcode
    if code is None and process.pid is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    _end_leftovers(copy)
    return NEVER_ENDED if code is None else code, output.read_text(encoding="utf-8", errors="replace")


def _be_pytest(arguments: Sequence[str], copy: str, output: str) -> None:
    os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(copy)
    sys.dont_write_bytecode = True
    sys.path[:] = [copy, *(path for path in sys.path if path not in ("", str(_ROOT)))]
    os.environ |= {"PYTHONPATH": copy, "PYTHONDONTWRITEBYTECODE": "1"}
    import pytest

    code = pytest.main(list(arguments))
    sys.stdout.flush()
    os._exit(code)


def _end_leftovers(copy: Path) -> None:
    """Broken code may leave processes; all that were started for a copy carry its path in their environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("PYTHONPATH") == str(copy):
                process.kill()
