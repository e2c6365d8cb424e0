"""Training rows: from JSON lines to token ids with a mark on every token the model should learn to write."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.datasets.lengths import BUCKETS, bucket_of
from tunesmith.tuning.datasets.row_errors import BadRow, NothingToLearn
from tunesmith.tuning.datasets.row_formats import Row
from tunesmith.tuning.datasets.row_parser import RowReader
from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.words import OnDroppedContent, OnLongRow
from tunesmith.worker.train.chat.conversation import DEFAULT_DAY, MarkedText
from tunesmith.worker.train.data.row_texts import RowRenderer, UnusableRow
from tunesmith.worker.train.data.tokenize import TokenizedText, tokenize
from tunesmith.worker.train.failures import user_error

SHOWN_LINES = 5
TOKENIZE_AT_ONCE = 512  # rows handed to the tokenizer's own threads in one call


class LineChoice(NamedTuple):
    """Lines of a file, from 1: those that are held out, or all others."""

    held_out: frozenset[int] = frozenset()
    wants_held_out: bool = False

    def has(self, line: int) -> bool:
        """Whether the line is read."""
        return (line in self.held_out) is self.wants_held_out

    def __str__(self) -> str:
        """The same for the same lines, whatever the order of a set."""
        return f"{'only' if self.wants_held_out else 'without'} {sorted(self.held_out)}"


ALL_LINES = LineChoice()


class LeftOut(NamedTuple):
    """How many rows hold words of an assistant's that the chat template does not print, and the line of the first."""

    rows: int
    first_line: int


@dataclass
class RowNotes:
    """What became of rows on the way: counts for the person who answers for the data.

    left_out: by field (`content`, `reasoning`, `call`); stops_added: rows that got a token that ends the reply, because
    template or text ends none; endless: rows that should have got one, had the model any; ends: by token, rows whose
    last reply ends with it; default_template: the model came without a chat template.
    """

    truncated: int = 0
    unsupervised: int = 0
    stops_added: int = 0
    endless: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    default_template: bool = False
    left_out: dict[str, LeftOut] = field(default_factory=dict)

    def note(self, line: int, texts: Sequence[MarkedText]) -> None:
        """Count one row's texts."""
        self.stops_added += any(text.stop is not None for text in texts)
        self.endless += any(text.is_endless for text in texts)
        for end in {text.end for text in texts if text.end}:
            self.ends[end] = self.ends.get(end, 0) + 1
        for name in sorted({name for text in texts for name in text.left_out}):
            before = self.left_out.get(name, LeftOut(0, line))
            self.left_out[name] = before._replace(rows=before.rows + 1)


@dataclass(frozen=True)
class Rows:
    """Tokenised rows in flat arrays. Row i holds the sequences i*n .. i*n+n-1, n being `sequences_per_row`.

    tokens: int32 [tokens]; supervised: bool [tokens]; offsets: int64 [sequences + 1]; line_numbers: int64 [rows],
    first line 1.
    """

    tokens: np.ndarray
    supervised: np.ndarray
    offsets: np.ndarray
    line_numbers: np.ndarray
    sequences_per_row: int = 1
    notes: RowNotes = field(default_factory=RowNotes)
    reference: np.ndarray | None = None  # fp32 [rows, 2]: log-probabilities of a pair under the model as it started

    def __len__(self) -> int:
        return len(self.line_numbers)

    def sequences(self, row: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Token ids and supervised marks of each sequence of one row."""
        first = row * self.sequences_per_row
        for index in range(first, first + self.sequences_per_row):
            span = slice(self.offsets[index], self.offsets[index + 1])
            yield self.tokens[span], self.supervised[span]

    def lengths(self) -> np.ndarray:
        """Tokens of each row, all of its sequences together: int64 [rows]."""
        return np.diff(self.offsets).reshape(-1, self.sequences_per_row).sum(axis=1)

    def squared_lengths(self) -> np.ndarray:
        """The squares of the tokens of each row's sequences, added up: int64 [rows]."""
        return (np.diff(self.offsets) ** 2).reshape(-1, self.sequences_per_row).sum(axis=1)

    def supervised_counts(self) -> np.ndarray:
        """Tokens of each row that carry loss: int64 [rows]. A sequence's first has nothing to be predicted from."""
        first = self.offsets[:-1]
        counts = np.add.reduceat(self.supervised, first, dtype=np.int64) - self.supervised[first]
        return counts.reshape(-1, self.sequences_per_row).sum(axis=1)


def load_rows(
    path: Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    objective: str,
    max_sequence_length: int,
    stop_tokens: Sequence[str] | None = None,
    today: date = DEFAULT_DAY,
    on_long_row: OnLongRow = "truncate",
    on_dropped_content: OnDroppedContent = "warn",
    lines: LineChoice = ALL_LINES,
    param: str = "training_file",
) -> Rows:
    """Read, render and tokenise a file; rows left with nothing to learn are dropped. `param` names it in errors.

    A row too long loses its end, or is refused. `stop_tokens` end a reply of the model (not given: the tokenizer's own
    does); `today` is the day that a template prints. Only the chosen `lines` are read.

    Raises:
        JobFailure: `invalid_training_file`, `row_too_long`, `content_left_out`, `no_supervised_tokens`,
            `chat_template_error`, `chat_template_unsupported` or `broken_chat_template`.
    """
    renderer = RowRenderer(tokenizer, objective=objective, stop_tokens=stop_tokens, today=today)
    builder = _Builder(sequences_per_row=renderer.texts_per_row, max_sequence_length=max_sequence_length)
    builder.notes.default_template = renderer.chat.default_template is not None
    for numbers, texts in _batches(path, renderer, builder.notes, lines=lines, param=param):
        builder.add(numbers, tokenize(texts, tokenizer))
    if builder.too_long and on_long_row == "refuse":
        raise _too_long(builder.too_long, limit=max_sequence_length, param=param)
    rows = builder.rows()
    if rows.notes.left_out and on_dropped_content == "refuse":
        raise _content_left_out(rows.notes, rows=len(rows), param=param)
    if not len(rows):
        raise user_error(
            ErrorCode.NO_SUPERVISED_TOKENS,
            f"No row of the {param.replace('_', ' ')} has anything left to learn within {max_sequence_length} tokens.",
            hint="Give each row an assistant message with weight 1; raise max_seq_length if prompts push it out.",
            param=param,
        )
    return rows


def exact_facts(rows: Rows, *, planned: DatasetFacts) -> DatasetFacts:
    """The counts that the plan was made from, from the tokens themselves."""
    longest = np.diff(rows.offsets).reshape(-1, rows.sequences_per_row).max(axis=1)
    counts = np.bincount([bucket_of(int(length)) for length in longest], minlength=BUCKETS)
    return planned.model_copy(
        update={
            "rows": len(rows),
            "tokens": int(rows.lengths().sum()),
            "longest_row_tokens": int(longest.max()),
            "supervised_tokens": int(rows.supervised_counts().sum()),
            "tokens_are_exact": True,
            "row_length_counts": tuple(int(count) for count in counts),
        }
    )


def describe_left_out(notes: RowNotes, *, rows: int) -> str:
    """A sentence about what the chat template does not print of the assistant's turns."""
    parts = [
        f"{name} in {count.rows:,} of {rows:,} rows ({count.rows / max(1, rows):.0%}, first in line {count.first_line})"
        for name, count in notes.left_out.items()
    ]
    return f"The model's chat template leaves out words of the assistant: {'; '.join(parts)}."


def _batches(
    path: Path, renderer: RowRenderer, notes: RowNotes, *, lines: LineChoice, param: str
) -> Iterator[tuple[list[int], list[MarkedText]]]:
    """Line numbers and texts of many rows at a time."""
    numbers: list[int] = []
    texts: list[MarkedText] = []
    for line, row in _read(path, lines, param):
        try:
            made = renderer.texts(row)
        except UnusableRow as problem:
            raise _bad_row(line, problem, param=param) from problem
        notes.note(line, made)
        numbers.append(line)
        texts.extend(made)
        if len(numbers) == TOKENIZE_AT_ONCE:
            yield numbers, texts
            numbers, texts = [], []
    if numbers:
        yield numbers, texts


def _read(path: Path, lines: LineChoice, param: str) -> Iterator[tuple[int, Row]]:
    reader = RowReader()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not lines.has(number):
                continue
            try:
                row = reader.read(line.removesuffix(b"\n"), number=number)
            except BadRow as bad:
                raise _bad_row(number, _unusable(bad), param=param) from bad
            if row is not None:
                yield number, row


def _unusable(bad: BadRow) -> UnusableRow:
    code = ErrorCode.NO_SUPERVISED_TOKENS if isinstance(bad, NothingToLearn) else ErrorCode.INVALID_TRAINING_FILE
    return UnusableRow(f"cannot be trained on: {bad.reason}", hint=bad.fix, code=code)


class _Builder:
    """Collects sequences row by row into the flat arrays of `Rows`."""

    def __init__(self, *, sequences_per_row: int, max_sequence_length: int) -> None:
        self._sequences_per_row = sequences_per_row
        self._limit = max_sequence_length
        self._sequences: list[TokenizedText] = []
        self._line_numbers: list[int] = []
        self.notes = RowNotes()
        self.too_long: list[tuple[int, int]] = []  # line number and tokens

    def add(self, line_numbers: list[int], sequences: list[TokenizedText]) -> None:
        """Keep the rows that still have a supervised token in each of their sequences after truncation."""
        per_row = self._sequences_per_row
        for index, number in enumerate(line_numbers):
            row = sequences[index * per_row : (index + 1) * per_row]
            longest = max(len(sequence.ids) for sequence in row)
            if longest > self._limit:
                self.too_long.append((number, longest))
            cut = [TokenizedText(ids[: self._limit], marks[: self._limit]) for ids, marks in row]
            if not all(marks[1:].any() for _, marks in cut):
                self.notes.unsupervised += 1
                continue
            self._line_numbers.append(number)
            self._sequences.extend(cut)

    def rows(self) -> Rows:
        """Everything that was added."""
        lengths = [len(sequence.ids) for sequence in self._sequences]
        self.notes.truncated = len(self.too_long)
        return Rows(
            tokens=np.concatenate([np.zeros(0, np.int32), *(sequence.ids for sequence in self._sequences)]),
            supervised=np.concatenate([np.zeros(0, bool), *(sequence.marks for sequence in self._sequences)]),
            offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
            line_numbers=np.asarray(self._line_numbers, dtype=np.int64),
            sequences_per_row=self._sequences_per_row,
            notes=self.notes,
        )


def _too_long(rows: list[tuple[int, int]], *, limit: int, param: str) -> Exception:
    shown = ", ".join(f"line {number} ({tokens} tokens)" for number, tokens in rows[:SHOWN_LINES])
    more = f" and {len(rows) - SHOWN_LINES} more" if len(rows) > SHOWN_LINES else ""
    longest = max(tokens for _, tokens in rows)
    return user_error(
        ErrorCode.ROW_TOO_LONG,
        f"{len(rows)} rows of the {param.replace('_', ' ')} are longer than {limit} tokens: {shown}{more}.",
        hint=f"Shorten them, raise max_seq_length to {longest}, or let them be cut with on_long_row 'truncate'.",
        param=param,
    )


def _content_left_out(notes: RowNotes, *, rows: int, param: str) -> Exception:
    return user_error(
        ErrorCode.CONTENT_LEFT_OUT,
        describe_left_out(notes, rows=rows),
        hint="Put it where the template prints it, choose a model whose template does, or train without it with "
        "on_dropped_content 'warn'.",
        param=param,
    )


def _bad_row(line: int, problem: UnusableRow, *, param: str) -> Exception:
    return user_error(
        problem.code, f"Line {line} of the {param.replace('_', ' ')} {problem}.", hint=problem.hint, param=param
    )
