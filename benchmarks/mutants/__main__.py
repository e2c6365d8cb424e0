"""Break every promise on purpose, one at a time, and see that a test notices.

    make mutants      or   python -m benchmarks.mutants [--only G4] [--page docs/mutants.md] [--at-once 2]

Each breakage is made in a copy of the repository, and the tests that are named beside it run there. The command fails
when one survives, or when its tests fail without it.
"""

import argparse
import datetime as dt
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from benchmarks.mutants.breakage import Breakage
from benchmarks.mutants.breakages import BREAKAGES

ROOT = Path(__file__).parents[2]
LONGEST_SECONDS = 300
PASSED, FAILED = 0, 1  # exit codes of pytest


class Verdict(NamedTuple):
    """What became of a breakage."""

    breakage: Breakage
    outcome: str
    """`caught`, `survived`, or why it could not be tried."""
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="breakages whose promise or name has this in it")
    parser.add_argument("--page", type=Path, help="write the table there")
    parser.add_argument("--at-once", type=int, default=2)
    arguments = parser.parse_args()
    chosen = [one for one in BREAKAGES if arguments.only in f"{one.promise} {one.name}"]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        verdicts = list(_try_all(chosen, copies=_copies(Path(folder), arguments.at_once)))
    if arguments.page:
        arguments.page.write_text(_page(verdicts, seconds=time.monotonic() - began), encoding="utf-8")
    left = [verdict for verdict in verdicts if verdict.outcome != "caught"]
    print(f"{len(verdicts) - len(left)} of {len(verdicts)} breakages were caught.")
    return 1 if left else 0


def _copies(folder: Path, count: int) -> "SimpleQueue[Path]":
    """The repository as it is on disk, as often as breakages are tried at once."""
    copies: SimpleQueue[Path] = SimpleQueue()
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for number in range(count):
        copy = folder / str(number)
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).exists():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
        copies.put(copy)
    return copies


def _try_all(chosen: Sequence[Breakage], *, copies: "SimpleQueue[Path]") -> Iterator[Verdict]:
    def one(breakage: Breakage) -> Verdict:
        copy = copies.get()
        try:
            return _try(breakage, copy)
        finally:
            copies.put(copy)

    sound = _sound(sorted({breakage.tests for breakage in chosen}), copies=copies)
    with ThreadPoolExecutor(copies.qsize()) as pool:
        for verdict in pool.map(one, [breakage for breakage in chosen if breakage.tests in sound]):
            print(f"{verdict.outcome:9} {verdict.breakage.promise:4} {verdict.breakage.name} ({verdict.seconds:.0f} s)")
            yield verdict
    for breakage in chosen:
        if breakage.tests not in sound:
            yield Verdict(breakage, "its tests fail without it", 0.0)


def _sound(tests: Iterable[str], *, copies: "SimpleQueue[Path]") -> set[str]:
    """Those that pass while nothing is broken: otherwise their failing says nothing."""

    def passes(named: str) -> bool:
        copy = copies.get()
        try:
            code, output = _pytest(named, copy)
        finally:
            copies.put(copy)
        if code != PASSED:
            print(f"without any breakage, exit code {code}: {named}\n{output[-2000:]}", file=sys.stderr)
        return code == PASSED

    named = list(tests)
    with ThreadPoolExecutor(copies.qsize()) as pool:
        return {one for one, sound in zip(named, pool.map(passes, named), strict=True) if sound}


def _try(breakage: Breakage, copy: Path) -> Verdict:
    began, file = time.monotonic(), copy / breakage.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(breakage.apply(whole), encoding="utf-8")
    try:
        code, output = _pytest(breakage.tests, copy)
    finally:
        file.write_text(whole, encoding="utf-8")
    outcome = {PASSED: "survived", FAILED: "caught"}.get(code, f"pytest ended with {code}: {output[-300:]}")
    return Verdict(breakage, outcome, time.monotonic() - began)


def _pytest(tests: str, copy: Path) -> tuple[int, str]:
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)]
    environment = {**os.environ, "PYTHONPATH": str(copy), "HYPOTHESIS_STORAGE_DIRECTORY": str(copy / ".hypothesis")}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return FAILED, "it never ended"
    return done.returncode, done.stdout + done.stderr


def _page(verdicts: Sequence[Verdict], *, seconds: float) -> str:
    caught = sum(verdict.outcome == "caught" for verdict in verdicts)
    lines = [
        "# Breakages that the tests catch",
        "",
        f"`make mutants`, {dt.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}:",
        f"{caught} of {len(verdicts)}",
        f"deliberate breakages were caught, in {seconds / 60:.0f} minutes. Each is one edit",
        "(`benchmarks/mutants/breakages.py`) after which the tests beside it must fail; the promises are",
        "those of [guarantees.md](guarantees.md).",
        "",
        "| promise | what was broken | file | outcome |",
        "|---|---|---|---|",
        *(
            f"| {verdict.breakage.promise} | {verdict.breakage.name} | `{verdict.breakage.file}` | {verdict.outcome} |"
            for verdict in verdicts
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
