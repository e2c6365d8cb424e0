"""Break every promise on purpose, one at a time, and see that a test notices.

    make mutants      or   python -m benchmarks.mutants [--only G4] [--page docs/mutants.md] [--untried] [--patience 5]

Each breakage is made in a copy of the repository, and the tests that are named beside it run there. The command fails
when one survives, or when its tests fail without it. A run that was interrupted goes on with `--untried`.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from benchmarks.mutants.breakage import Breakage
from benchmarks.mutants.breakages import BREAKAGES
from benchmarks.mutants.forked_tests import NEVER_ENDED, run_tests
from benchmarks.mutants.page import CAUGHT, Verdict, is_untried, page

ROOT = Path(__file__).parents[2]
_LONGEST_SECONDS = 240  # of the tests of one breakage, on a machine with nothing else to do
_LONGEST_SOUND_SECONDS = 600  # of the tests of one batch together, without a breakage
_BATCH = 10  # breakages whose tests are first run without one: what an interruption costs
_PASSED, _FAILED = 0, 1  # exit codes of pytest
_FAILED_TEST = re.compile(r"^(?:FAILED|ERROR) (\S+::[^\s\[]+)", re.M)

Copies = SimpleQueue[Path]


def main() -> int:
    """Try the chosen breakages, and write or bring up to date the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="breakages of this promise, or whose name has this in it")
    parser.add_argument("--page", type=Path, help="write the table there; rows of others stay as they were")
    parser.add_argument("--untried", action="store_true", help="only breakages that the page has no verdict on")
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--patience", type=float, default=1.0, help="tests may take so many times as long")
    arguments = parser.parse_args()
    chosen = _chosen(arguments.only, untried_by=_read(arguments.page) if arguments.untried else None)
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        copies = _copies(Path(folder), arguments.at_once)
        for verdict in _try_all(chosen, copies=copies, patience=arguments.patience):
            print(f"{verdict.outcome:9} {verdict.breakage.promise:4} {verdict.breakage.name} ({verdict.seconds:.0f} s)")
            sys.stdout.flush()
            verdicts.append(verdict)
            if arguments.page:  # at once: an interrupted run keeps what it found
                arguments.page.write_text(page([verdict], earlier=_read(arguments.page)), encoding="utf-8")
    left = [verdict for verdict in verdicts if verdict.outcome != CAUGHT]
    print(f"{len(verdicts) - len(left)} of {len(verdicts)} breakages were caught.")
    return 1 if left else 0


def _chosen(only: str, *, untried_by: str | None) -> list[Breakage]:
    chosen = [one for one in BREAKAGES if only == one.promise or only in one.name]
    return chosen if untried_by is None else [one for one in chosen if is_untried(one, page=untried_by)]


def _read(path: Path | None) -> str:
    return path.read_text(encoding="utf-8") if path is not None and path.exists() else ""


def _copies(folder: Path, count: int) -> Copies:
    """The repository as it is on disk, as often as breakages are tried at once, compiled."""
    copies: Copies = SimpleQueue()
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for number in range(count):
        copy = folder / str(number)
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).exists():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
        # by hash: an edit within a second that keeps the length would not be seen by time and size
        compiling = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash"]
        subprocess.run([*compiling, "tuning", "service", "worker", "cli", "local", "tests"], cwd=copy, check=True)
        copies.put(copy)
    return copies


def _try_all(chosen: Sequence[Breakage], *, copies: Copies, patience: float) -> Iterator[Verdict]:
    for first in range(0, len(chosen), _BATCH):
        yield from _try_batch(chosen[first : first + _BATCH], copies=copies, patience=patience)


def _try_batch(batch: Sequence[Breakage], *, copies: Copies, patience: float) -> Iterator[Verdict]:
    with _one_of(copies) as copy:
        tests = sorted({test for breakage in batch for test in shlex.split(breakage.tests)})
        unsound = _failing(tests, copy, longest_seconds=_LONGEST_SOUND_SECONDS * patience)

    def judge(breakage: Breakage) -> Verdict:
        if unsound & set(shlex.split(breakage.tests)):
            return Verdict(breakage, "its tests fail without it")
        with _one_of(copies) as copy:
            return _try(breakage, copy, longest_seconds=_LONGEST_SECONDS * patience)

    with ThreadPoolExecutor(copies.qsize()) as pool:
        yield from pool.map(judge, batch)


@contextmanager
def _one_of(copies: Copies) -> Iterator[Path]:
    copy = copies.get()
    try:
        yield copy
    finally:
        copies.put(copy)


def _failing(tests: Collection[str], copy: Path, *, longest_seconds: float) -> set[str]:
    """Those that fail while nothing is broken: their failing says nothing."""
    code, output = run_tests(["-q", *tests], copy, longest_seconds=longest_seconds)
    if code == _PASSED:
        return set()
    print(output[-3000:], file=sys.stderr)
    return set(_FAILED_TEST.findall(output)) if code == _FAILED else set(tests)


def _try(breakage: Breakage, copy: Path, *, longest_seconds: float) -> Verdict:
    began, file = time.monotonic(), copy / breakage.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(breakage.apply(whole), encoding="utf-8")
    try:
        tests = ["-x", "-q", *shlex.split(breakage.tests)]
        code, output = run_tests(tests, copy, longest_seconds=longest_seconds)
    finally:
        file.write_text(whole, encoding="utf-8")
    return Verdict(breakage, _outcome(code, output), time.monotonic() - began)


def _outcome(code: int, output: str) -> str:
    """A test that failed has caught it; one that could not begin or never ended may have had other reasons."""
    if code == _PASSED:
        return "survived"
    if code == _FAILED and re.search(r"^FAILED ", output, re.M):
        return CAUGHT
    print(output[-2000:], file=sys.stderr)
    return "never ended" if code == NEVER_ENDED else f"no test failed (pytest ended with {code})"


if __name__ == "__main__":
    sys.exit(main())
