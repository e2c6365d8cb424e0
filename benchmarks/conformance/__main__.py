"""`python -m benchmarks.conformance [--page FILE] [--fuzz]`: clients of OpenAI's API against a whole installation.

Starts the service with its servers and one worker, trains one small job, lets every client play its cases, and prints
a line for each client. `--page` writes docs/conformance.md; `--fuzz` sends generated requests to every route of
/openapi.json instead and fails at the first answer that says a fault of the service. Exit code 1 when something went
otherwise than with OpenAI.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import openai

from benchmarks.conformance.cases import AS_OPENAI, CASES, NOT_THERE
from benchmarks.conformance.environments import FUZZER, clients, environment
from benchmarks.pages import Reasons, paragraph
from tests.tiny_model import build_tiny_model
from tunesmith.cli.client import Client
from tunesmith.cli.connection import Connection
from tunesmith.cli.models.folder import inspect
from tunesmith.cli.models.register import register
from tunesmith.local.up.stack import running_stack

MODEL = "tiny-llama"
_START_SECONDS, _JOB_SECONDS = 600.0, 600.0  # on a machine that does much else
# As many steps as it takes for a checkpoint to be sent while the job trains.
_EPOCHS = 3
_ROWS = b'{"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]}\n' * 120
_HEAD = """# Clients of OpenAI's API

Each column is one client, unmodified and in an environment of its own, that drives the service with its servers and a
worker. With Python's clients every answer is held against the client's own models, strictly: no field is missing and
no value is converted. `paused` is in no client's list of states, so an answer that says it is read and not held.
`-`: the client has no such call, or is not asked for it.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--page", type=Path, help="write the page of docs/ here")
    parser.add_argument("--fuzz", action="store_true", help="send generated requests instead")
    parser.add_argument("--examples", type=int, default=20, help="generated requests to each route")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        root = Path(folder)
        with running_stack(root / "data", timeout_seconds=_START_SECONDS) as connection:
            with Client(find=lambda: connection) as client:
                register(client, MODEL, inspect(build_tiny_model(root / "model")))
            if options.fuzz:
                return _fuzz(connection, examples=options.examples)
            found = _played(connection, page=options.page)
    return 1 if any(_is_wrong(outcome) for outcomes in found.values() for outcome in outcomes.values()) else 0


def _played(connection: Connection, *, page: Path | None) -> dict[str, dict[str, str]]:
    """What came of it by client and case; the page is written after each, so that a long run can be looked at."""
    return played(connection, job=_succeeded(connection), page=page)


def played(connection: Connection, *, job: str, page: Path | None) -> dict[str, dict[str, str]]:
    """The same with a job that has succeeded."""
    found: dict[str, dict[str, str]] = {}
    absent: list[str] = []
    for client in clients(absent):
        started = time.monotonic()
        outcomes = found[client.name] = client.play(connection.base_url, connection.api_key, MODEL, job)
        good = sum(outcome == AS_OPENAI for outcome in outcomes.values())
        print(f"{client.name}: {good} of {len(outcomes)} in {time.monotonic() - started:.0f} s", flush=True)
        for case, outcome in outcomes.items():
            if outcome != AS_OPENAI:
                print(f"  {case}: {outcome}", flush=True)
        _write(page, found, absent)
    _write(page, found, absent)
    return found


def _write(page: Path | None, found: dict[str, dict[str, str]], absent: Sequence[str]) -> None:
    if page is not None and found:
        page.write_text(_page(found, absent), encoding="utf-8")


def _succeeded(connection: Connection) -> str:
    client = openai.OpenAI(base_url=connection.base_url, api_key=connection.api_key)
    file = client.files.create(file=("rows.jsonl", _ROWS), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=MODEL, training_file=file.id, hyperparameters={"n_epochs": _EPOCHS, "batch_size": 4}, seed=1
    )
    deadline = time.monotonic() + _JOB_SECONDS
    while job.status not in {"succeeded", "failed", "cancelled"} and time.monotonic() < deadline:
        time.sleep(0.5)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded":
        raise RuntimeError(f"{job.id} is {job.status}: {job.error}")
    return job.id


def _fuzz(connection: Connection, *, examples: int) -> int:
    """Whether schemathesis found no answer of 500 or above."""
    program = environment("schemathesis", FUZZER).with_name("schemathesis")
    url = connection.base_url.removesuffix("/v1")
    command = [str(program), "run", f"{url}/openapi.json", "--checks", "not_a_server_error"]
    command += ["--header", f"Authorization: Bearer {connection.api_key}", "--max-examples", str(examples)]
    command += ["--phases", "examples,coverage,fuzzing", "--request-timeout", "20", "--seed", "1", "--no-color"]
    command += ["--exclude-path-regex", "events|wakes", "--continue-on-failure"]  # streams stay open by design
    return subprocess.run(command, check=False).returncode


def _is_wrong(outcome: str) -> bool:
    return outcome != AS_OPENAI and not outcome.startswith(NOT_THERE)


def _page(found: dict[str, dict[str, str]], absent: Sequence[str]) -> str:
    reasons = Reasons()
    head, *rest = _HEAD.split("\n\n", maxsplit=1)
    lines = [head, "", *(paragraph(text) for text in rest), ""]
    lines += ["| case | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for case in CASES:
        cells = [_cell(outcomes.get(case, NOT_THERE), reasons) for outcomes in found.values()]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    lines += ["", *([reasons.listed(), ""] if reasons.listed() else [])]
    if absent:
        lines += [f"Could not be installed where this page was written: {', '.join(absent)}.", ""]
    written = f"Written {datetime.now(UTC):%Y-%m-%d} by `make conformance` with Python {platform.python_version()}."
    lines += [paragraph(f"{written} `make test` plays the same list with the installed client."), ""]
    return "\n".join(lines)


def _cell(outcome: str, reasons: Reasons) -> str:
    if outcome == AS_OPENAI:
        return "ok"
    return "-" if outcome.startswith(NOT_THERE) else f"**({reasons.number(outcome)})**"


if __name__ == "__main__":
    sys.exit(main())
