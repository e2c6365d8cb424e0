"""The page about breakages: one row each, with what became of it when it was last tried."""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.mutants.breakage import Breakage
from benchmarks.mutants.breakages import BREAKAGES

CAUGHT = "caught"
_NOT_TRIED = "not tried yet |"


class Verdict(NamedTuple):
    """What became of a breakage."""

    breakage: Breakage
    outcome: str
    """`caught`, `survived`, or why it could not be tried."""
    seconds: float = 0.0


def page(verdicts: Sequence[Verdict], *, earlier: str) -> str:
    """The page with these verdicts; of breakages that were not tried now, with the rows of the `earlier` page."""
    today = dt.date.today()
    told = {_beginning_of(line): line for line in earlier.splitlines()}
    told |= {_beginning(one.breakage): f"{_beginning(one.breakage)} {one.outcome} | {today} |" for one in verdicts}
    rows = [told.get(_beginning(one), f"{_beginning(one)} {_NOT_TRIED} |") for one in BREAKAGES]
    caught = sum(f" | {CAUGHT} | " in row for row in rows)
    lines = [
        "# Breakages that the tests catch",
        "",
        f"{caught} of {len(rows)} deliberate breakages were caught when they were last tried. Each is one edit",
        "below `benchmarks/mutants/`, after which the tests that are named beside it there must fail; the",
        "promises are those of [guarantees.md](guarantees.md). `make mutants` tries them all and writes",
        "this page; `python -m benchmarks.mutants --only G4 --page docs/mutants.md` tries those of one,",
        "and `--untried` those without a verdict, as after a run that was interrupted.",
        "",
        "| promise | what was broken | file | outcome | tried |",
        "|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def is_untried(breakage: Breakage, *, page: str) -> bool:
    """Whether a page has no verdict on it: no row, or one that says so."""
    told = {_beginning_of(line): line for line in page.splitlines()}
    return _NOT_TRIED in told.get(_beginning(breakage), _NOT_TRIED)


def _beginning(breakage: Breakage) -> str:
    return f"| {breakage.promise} | {breakage.name} | `{breakage.file}` |"


def _beginning_of(row: str) -> str:
    return "|".join(row.split("|")[:4]) + "|"
