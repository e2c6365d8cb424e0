"""Checking a training file line by line, in bounded memory, however the bytes arrive."""

import re
from collections.abc import Callable
from typing import Literal

from pydantic import computed_field

from tunesmith.tuning.datasets.doctor.row_hashes import RowHashes, row_hash
from tunesmith.tuning.datasets.doctor.row_sample import RowSample
from tunesmith.tuning.datasets.doctor.suspicions import Suspicion, suspicions
from tunesmith.tuning.datasets.lengths import BUCKETS, bucket_of
from tunesmith.tuning.datasets.row_errors import BadRow
from tunesmith.tuning.datasets.row_formats import Row, RowFormat
from tunesmith.tuning.datasets.row_parser import MAX_ROW_BYTES, RowReader, too_long
from tunesmith.tuning.datasets.row_sizes import RowSize, size_of
from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.values.base import Value

SHOWN_PROBLEMS = 20
SHOWN_LINES = 5
_LONGEST_BLANK_BYTES = 64  # of a line that is passed with others like it; one that is longer is read by itself
_SHORTEST_ROW_BYTES = len(b'{"text":"a"}')


class RowProblem(Value):
    """Why one line cannot be trained on."""

    line: int
    """Counted from 1; 0 is the file as a whole."""
    reason: str
    """Why it cannot be trained on."""
    fix: str = ""
    """What to do about it."""


class RowLines(Value):
    """How many rows something is true of, and the lines of the first of them."""

    count: int = 0
    """Rows."""
    lines: tuple[int, ...] = ()
    """Lines of the first ones, counted from 1."""

    def and_line(self, line: int) -> "RowLines":
        """One row more."""
        return RowLines(count=self.count + 1, lines=(*self.lines, line)[:SHOWN_LINES])


class RowReport(Value):
    """What the check of a file's rows found."""

    format: RowFormat | None
    """The shape of every row; null where no row is good."""
    rows: int
    """Good rows."""
    characters: int
    """Characters of their text."""
    tokens: int
    """Tokens of the good rows, estimated from bytes."""
    longest_row_tokens: int
    """Tokens of the longest one, estimated likewise."""
    supervised_tokens: int
    """Of the tokens, those that the model is taught to write."""
    row_length_counts: tuple[int, ...] = ()
    """Rows by length, in the buckets of `tuning.datasets.lengths`."""
    has_tools: bool = False
    """Whether some row defines or calls tools."""
    has_weights: bool = False
    """Whether some message has a weight."""
    problem_count: int = 0
    """Rows that cannot be trained on."""
    problems: tuple[RowProblem, ...] = ()
    """The first of those."""
    repeated: RowLines = RowLines()
    """Rows that say what an earlier row of the file says."""
    rows_not_compared: int = 0
    """Rows of a very large file that later ones were not compared with."""
    shared: RowLines = RowLines()
    """Rows that are also in the file that it was compared with, as a validation file's with the training file's."""
    suspected: dict[Suspicion, RowLines] = {}
    """By kind, rows that look as if they held a secret or data about a person."""
    sample: tuple[str, ...] = ()
    """Hashes of some rows, by which the service compares the file with another one; it does not show them."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def kind(self) -> Literal["supervised", "dpo"]:
        """The objective that rows of this format are for."""
        return "dpo" if self.format is RowFormat.PREFERENCE else "supervised"

    @property
    def summary(self) -> str | None:
        """The problems as one text for people; None when there are none."""
        if not self.problems:
            return None
        if self.problems[0].line == 0:
            return self.problems[0].reason
        lines = "; ".join(f"line {problem.line}: {problem.reason}" for problem in self.problems)
        more = self.problem_count - len(self.problems)
        ending = f"; and {more:,} more" if more else ""
        rows = self.rows + self.problem_count
        return f"{self.problem_count:,} of {rows:,} rows cannot be trained on. {lines}{ending}"

    def facts(self, *, validation_rows: int = 0) -> DatasetFacts:
        """The same counts as the planner wants them."""
        return DatasetFacts(
            rows=self.rows,
            validation_rows=validation_rows,
            tokens=self.tokens,
            longest_row_tokens=self.longest_row_tokens,
            supervised_tokens=self.supervised_tokens,
            row_length_counts=self.row_length_counts,
        )


class RowChecker:
    """Feed it bytes in pieces of any size, then ask for the report. Holds at most one row, and eight bytes of each.

    hashes: keeps what the rows are known by, to compare another file with; other: of a file that was checked before;
    seen: called with every good row.
    """

    def __init__(
        self,
        *,
        max_row_bytes: int = MAX_ROW_BYTES,
        hashes: RowHashes | None = None,
        other: RowHashes | None = None,
        seen: Callable[[Row], None] = lambda _: None,
    ) -> None:
        self._max_row_bytes = max_row_bytes
        longest = min(_LONGEST_BLANK_BYTES, max_row_bytes)
        self._blank_lines = re.compile(rb"(?:[ \t\r]{0,%d}+\n)++" % longest)  # possessive: it keeps no way back
        self._pending = bytearray()
        self._skipping = False  # inside a row that is already known to be too long
        self._line = 0
        self._reader = RowReader(max_row_bytes=max_row_bytes)
        self._hashes = RowHashes() if hashes is None else hashes
        self._other = other
        self._sample = RowSample()
        self._seen = seen
        self._counts = _Counts()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        start = self._pass_blank_lines(data, 0)
        while (end := data.find(b"\n", start)) >= 0:
            self._extend(data[start:end])
            self._end_line()
            start = self._pass_blank_lines(data, end + 1)
        self._extend(data[start:])

    def finish(self) -> RowReport:
        """End the file and return what was found."""
        if self._pending or self._skipping:
            self._end_line()
        if not self._counts.rows and not self._counts.problem_count:
            self._counts.reject(0, "The file has no rows.")
        not_compared = self._hashes.dropped
        return self._counts.report(self._reader.format, rows_not_compared=not_compared, sample=self._sample.hashes)

    def _pass_blank_lines(self, data: bytes, start: int) -> int:
        """Where the next line begins that is not blank: many of them cost what one does."""
        if self._pending or self._skipping or (blank := self._blank_lines.match(data, start)) is None:
            return start
        self._line += data.count(b"\n", start, blank.end())
        return blank.end()

    def _extend(self, piece: bytes) -> None:
        if self._skipping:
            return
        if len(self._pending) + len(piece) > self._max_row_bytes:
            self._skipping = True
            self._pending.clear()
            return
        self._pending += piece

    def _end_line(self) -> None:
        self._line += 1
        line, skipped = bytes(self._pending), self._skipping
        self._pending.clear()
        self._skipping = False
        if len(line) < _SHORTEST_ROW_BYTES and self._counts.has_shown_problems and not skipped and line.strip():
            self._counts.reject(self._line, "it is too short for a row")  # which nobody is shown any more
            return
        try:
            if skipped:
                raise too_long(self._max_row_bytes)
            row = self._reader.read(line, number=self._line)
        except BadRow as bad:
            self._counts.reject(self._line, bad.reason, fix=bad.fix)
            return
        if row is not None:
            self._accept(row, line)

    def _accept(self, row: Row, line: bytes) -> None:
        self._counts.accept(size_of(row))
        value = row_hash(row)
        self._sample.add(value)
        if self._hashes.add(value):
            self._counts.repeated = self._counts.repeated.and_line(self._line)
        if self._other is not None and value in self._other:
            self._counts.shared = self._counts.shared.and_line(self._line)
        for kind in suspicions(line):
            before = self._counts.suspected.get(kind, RowLines())
            self._counts.suspected[kind] = before.and_line(self._line)
        self._seen(row)


class _Counts:
    def __init__(self) -> None:
        self.rows = 0
        self.problem_count = 0
        self._problems: list[RowProblem] = []
        self._characters = self._tokens = self._longest = self._supervised = 0
        self._lengths = [0] * BUCKETS
        self._has_tools = self._has_weights = False
        self.repeated = self.shared = RowLines()
        self.suspected: dict[Suspicion, RowLines] = {}

    def accept(self, row: RowSize) -> None:
        """Add a good row."""
        self.rows += 1
        self._characters += row.characters
        self._tokens += row.tokens
        self._longest = max(self._longest, row.longest)
        self._lengths[bucket_of(row.longest)] += 1
        self._supervised += row.supervised_tokens
        self._has_tools |= row.has_tools
        self._has_weights |= row.has_weights

    @property
    def has_shown_problems(self) -> bool:
        """Whether all are kept that are shown; of others only the number is told."""
        return len(self._problems) == SHOWN_PROBLEMS

    def reject(self, line: int, reason: str, *, fix: str = "") -> None:
        self.problem_count += 1
        if not self.has_shown_problems:
            self._problems.append(RowProblem(line=line, reason=reason, fix=fix))

    def report(self, format_: RowFormat | None, *, rows_not_compared: int, sample: tuple[str, ...]) -> RowReport:
        return RowReport(
            format=format_,
            rows=self.rows,
            characters=self._characters,
            tokens=self._tokens,
            longest_row_tokens=self._longest,
            supervised_tokens=self._supervised,
            row_length_counts=tuple(self._lengths),
            has_tools=self._has_tools,
            has_weights=self._has_weights,
            problem_count=self.problem_count,
            problems=tuple(self._problems),
            repeated=self.repeated,
            rows_not_compared=rows_not_compared,
            shared=self.shared,
            suspected=self.suspected,
            sample=sample,
        )
