"""`python -m benchmarks.captures [--page FILE]`: what each verb prints on a terminal of 80 and of 120 columns.

Starts the service with its servers and one worker, trains one tiny job, and runs the verbs as a shell would. Ids,
times and durations are those of this run.
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from benchmarks.pages import page, paragraph
from tests.tiny_model import build_tiny_model
from tests.waiting import eventually
from tunesmith.cli.client import Client
from tunesmith.cli.connection import Connection
from tunesmith.local.main import main as tunesmith
from tunesmith.local.up.stack import running_stack

COLUMNS = (80, 120)
_START_SECONDS = 600.0  # on a machine that does much else
_ROW = '{{"prompt": "What is {0} plus one? ", "completion": "{1}"}}\n'
_HEAD = """What each verb prints on a terminal, at 80 columns and, where that differs, at 120: standard output and
standard error together, without colours. `make captures` writes this page from a real installation that has trained
one tiny job; ids, times and durations are those of that run. Where nobody watches, tables are one line for each row,
whatever its length. Standard error is written here as nobody would watch it, so that progress is lines: on a terminal
the reasons of a plan go on below themselves."""
_MODEL = ["models add tiny-llama --path model"]
_FIRST = [
    "models ls",
    "data check rows.jsonl",
    "files add rows.jsonl",
    "files ls",
    "plan rows.jsonl --model tiny-llama",
    "plan --model Qwen/Qwen3-8B --on 1xRTX4090,1xH100 --rows 5000",
    "plan --model llama-3.1-70b --on 1xRTX4090 --rows 5000",
]
_SUBMIT = [
    "submit rows.jsonl --model tiny-llama --suffix sums --epochs 2 --batch-size 4 --seed 1 --plan --yes --follow",
]
_AFTER = [
    "ls",
    "get JOB",
    "logs JOB",
    "events JOB",
    "samples JOB",
    "watch JOB",
    "cancel JOB",
    "artifacts ls JOB",
    "artifacts pull JOB",
    "eval MODEL --data rows.jsonl --against base",
    "aliases set ft:sums@prod MODEL --reason first",
    "aliases ls",
    "aliases history ft:sums@prod",
    "schedules create --name nightly --model tiny-llama --cron '0 3 * * *' --filename rows.jsonl",
    "schedules ls",
    "schedules show nightly",
    "webhooks ls",
    "workers",
    "workers invitations",
    "keys ls",
    "projects ls",
    "audit",
    "plan --accuracy",
    "submit rows.jsonl --model tiny-lama",
    "submit rows.jsonl --model tiny-llama --rank 0",
    "version",
]


class _Screen(io.StringIO):
    """Looks like a terminal to whoever writes a table."""

    def isatty(self) -> bool:
        return True


class _Shell:
    """A folder and an installation, in which verbs are run."""

    def __init__(self, folder: Path, environment: dict[str, str], connection: Connection) -> None:
        self._folder, self._environment, self._key = folder, environment, connection.api_key

    def run(self, line: str, *, columns: int) -> str:
        """What the verb printed, and its exit code if that is not 0."""
        screen = _Screen()
        said = {**self._environment, "COLUMNS": str(columns), "LINES": "50", "NO_COLOR": "1"}
        notes = io.TextIOWrapper(_Through(screen), write_through=True)
        with (
            mock.patch.dict(os.environ, said, clear=True),
            contextlib.chdir(self._folder),
            contextlib.redirect_stdout(screen),
            contextlib.redirect_stderr(notes),
        ):
            code = _code(shlex.split(line))
        text = screen.getvalue().replace(self._key, "ts-...").rstrip()
        return f"{text}\n[exit code {code}]" if code else text


class _Through(io.RawIOBase):
    """Standard error onto the same screen; it is no terminal, so that no spinner draws over lines."""

    def __init__(self, screen: io.StringIO) -> None:
        self._screen = screen

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._screen.write(bytes(data).decode())
        return len(data)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.captures", description=__doc__)
    parser.add_argument("--page", type=Path, help="write the page of docs/ here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="captures-") as name:
        folder = Path(name)
        build_tiny_model(folder / "model")
        (folder / "rows.jsonl").write_text("".join(_ROW.format(n, n + 1) for n in range(200)))
        data = {"TUNESMITH_DATA_DIR": str(folder / "data"), "TUNESMITH_CACHE_DIR": str(folder / "cache")}
        environment = {"PATH": os.environ["PATH"], "HOME": name, **data}
        with running_stack(folder / "data", timeout_seconds=_START_SECONDS) as connection:
            _wait_for_worker(connection)
            blocks = [text.replace(name, "~") for text in _captured(_Shell(folder, environment, connection))]
    text = page("What the command prints", paragraph(_HEAD), *blocks)
    if options.page:
        options.page.write_text(text, encoding="utf-8")
    else:
        print(text)


def _wait_for_worker(connection: Connection) -> None:
    """A worker measures its machine before it registers, and without one nothing can be planned."""
    with Client(find=lambda: connection) as client:
        eventually(lambda: bool(client.workers()), seconds=_START_SECONDS)


def _captured(shell: _Shell) -> Iterator[str]:
    for line in [*_MODEL, *_FIRST, *_SUBMIT]:
        yield _block(shell, line, again=line in _FIRST)
    job = shell.run("ls -o json", columns=80)
    names = {"JOB": _first(r'"id": "(ftjob-\w+)"', job), "MODEL": _first(r'"fine_tuned_model": "(ft:[^"]+)"', job)}
    for line in _AFTER:
        known = re.sub("JOB|MODEL", lambda found: names[found[0]], line)
        yield _block(
            shell, known, again=not line.startswith(("eval", "aliases set", "schedules create", "artifacts pull"))
        )


def _block(shell: _Shell, line: str, *, again: bool) -> str:
    """At 80 columns, and at 120 where that differs."""
    texts = {columns: shell.run(line, columns=columns) for columns in (COLUMNS if again else COLUMNS[:1])}
    print(f"$ tunesmith {line}\n{texts[COLUMNS[0]]}\n", flush=True)
    blocks = [f"## `tunesmith {line}`", _quoted(texts[COLUMNS[0]])]
    if again and texts[COLUMNS[1]] != texts[COLUMNS[0]]:
        blocks += ["At 120 columns:", _quoted(texts[COLUMNS[1]])]
    return "\n\n".join(blocks)


def _quoted(text: str) -> str:
    return f"```text\n{text}\n```"


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern} in:\n{text[:2000]}")
    return found[1]


def _code(words: list[str]) -> int:
    try:
        return tunesmith(words)
    except SystemExit as leaving:
        return int(leaving.code or 0)


if __name__ == "__main__":
    main()
