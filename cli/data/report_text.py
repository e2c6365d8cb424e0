"""What the check of a file found, as lines for people: never a word of a row."""

from collections.abc import Iterator, Sequence

from tunesmith.tuning.datasets.doctor.suspicions import Suspicion
from tunesmith.tuning.datasets.length_limits import LengthHistogram
from tunesmith.tuning.datasets.lengths import EDGES
from tunesmith.tuning.datasets.rows import RowLines, RowReport
from tunesmith.tuning.values.units import plural

_BAR_CHARACTERS = 30
_WORDS = {
    Suspicion.PRIVATE_KEY: "a private key",
    Suspicion.ACCESS_KEY: "an access key",
    Suspicion.TOKEN: "a signed token",
    Suspicion.EMAIL: "an e-mail address",
    Suspicion.PHONE_NUMBER: "a phone number",
    Suspicion.CARD_NUMBER: "a card number",
    Suspicion.BANK_ACCOUNT: "a bank account",
}


def report_lines(report: RowReport, *, is_shared_told: bool = True) -> Iterator[str]:
    """Format and counts, then what is wrong, then what one should look at."""
    shape = report.format.value if report.format else "no rows that can be used"
    yield f"format {shape}; {plural(report.rows, 'good row')}, {plural(report.problem_count, 'bad one')}"
    yield f"about {report.tokens:,} tokens by bytes, {report.supervised_tokens:,} to learn"
    for problem in report.problems:
        yield f"line {problem.line}: {problem.reason}. {problem.fix}".rstrip() if problem.line else problem.reason
    if (more := report.problem_count - len(report.problems)) > 0:
        yield f"and {more:,} more bad rows"
    if report.repeated.count:
        yield f"{plural(report.repeated.count, 'row')} repeated: {_lines(report.repeated)}"
    if report.rows_not_compared:
        yield f"{plural(report.rows_not_compared, 'row')} not compared with later ones: the file has too many"
    if report.shared.count and is_shared_told:
        yield f"{plural(report.shared.count, 'row')} also in the training file: {_lines(report.shared)}"
    for kind, where in report.suspected.items():
        yield f"{plural(where.count, 'row')} with what looks like {_WORDS[kind]}: {_lines(where)}"


def length_lines(report: RowReport) -> Iterator[str]:
    """A bar for each length that rows have, as the check estimated it from bytes."""
    if any(report.row_length_counts):
        yield f"tokens of a row by bytes, longest about {report.longest_row_tokens:,}"
        yield from _bars(report.row_length_counts)


def histogram_lines(histogram: LengthHistogram, *, tokenizer: str, all_rows: int) -> Iterator[str]:
    """A bar for each length that rows have, then what limits would cut."""
    part = "" if histogram.rows == all_rows else f" of the first {histogram.rows:,} rows"
    yield f"{histogram.tokens:,} tokens{part} by the tokenizer of {tokenizer}, longest row {histogram.longest:,}"
    yield from _bars(histogram.counts)
    for cut in histogram.cuts:
        share = 100 * cut.tokens / max(1, histogram.tokens)
        yield f"  a limit of {cut.limit:,} cuts {plural(cut.rows, 'row')} and {cut.tokens:,} tokens ({share:.1f} %)"
    if not histogram.cuts:
        yield "  no usual limit cuts anything"


def _bars(counts: Sequence[int]) -> Iterator[str]:
    most = max(counts, default=0)
    for index, count in enumerate(counts):
        if count:
            edge = f"<= {EDGES[index]:,}" if index < len(EDGES) else f"> {EDGES[-1]:,}"
            yield f"  {edge:>9}  {count:>9,}  {'█' * max(1, round(_BAR_CHARACTERS * count / most))}"


def _lines(where: RowLines) -> str:
    more = where.count - len(where.lines)
    lines = ", ".join(f"{line:,}" for line in where.lines)
    return f"line {lines}" + (f" and {more:,} more" if more > 0 else "")
