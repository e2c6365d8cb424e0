"""Training rows: from JSON lines to token ids with a mark on every token the model should learn to write.

Four kinds of row, told apart by their keys: chat (`messages`), `prompt` and `completion`, plain `text`, and
preference pairs (`input`, `preferred_output`, `non_preferred_output`, or `prompt`, `chosen`, `rejected`), which become
two sequences each.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tuning.job import DatasetFacts, OnLongRow
from tuning.lengths import BUCKETS, bucket_of
from worker.train.data.chat import ChatRenderer, MarkedText
from worker.train.failures import user_error

# Pieces of one sequence are tokenised apart: a prompt must get the tokens it will have when the model is used.
Sequence = tuple[MarkedText, ...]
SHOWN_LINES = 5
TOKENIZE_AT_ONCE = 512  # rows handed to the tokenizer's own threads in one call


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
    truncated: int = 0
    unsupervised: int = 0
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

    def supervised_counts(self) -> np.ndarray:
        """Tokens of each row that carry loss: int64 [rows]. A sequence's first has nothing to be predicted from."""
        marks = self.supervised.astype(np.int64)
        marks[self.offsets[:-1]] = 0
        return np.add.reduceat(marks, self.offsets[:-1]).reshape(-1, self.sequences_per_row).sum(axis=1)


def load_rows(
    path: Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    objective: str,
    max_sequence_length: int,
    on_long_row: OnLongRow = "truncate",
    param: str = "training_file",
) -> Rows:
    """Read, render and tokenise a file; rows left with nothing to learn are dropped. `param` names it in errors.

    A row too long loses its end, or is refused.

    Raises:
        JobFailure: `invalid_training_file`, `row_too_long`, `no_supervised_tokens` or `chat_template_unsupported`.
    """
    renderer = ChatRenderer(tokenizer)
    builder = _Builder(sequences_per_row=2 if objective == "dpo" else 1, max_sequence_length=max_sequence_length)
    numbers: list[int] = []
    texts: list[Sequence] = []
    for number, row in _read(path, param):
        numbers.append(number)
        try:
            texts.extend(_marked_texts(row, renderer=renderer, tokenizer=tokenizer, objective=objective))
        except _Unusable as problem:
            raise _bad_row(number, str(problem), param=param, hint=problem.hint) from problem
        if len(numbers) == TOKENIZE_AT_ONCE:
            builder.add(numbers, _tokenize(texts, tokenizer))
            numbers, texts = [], []
    if numbers:
        builder.add(numbers, _tokenize(texts, tokenizer))
    if builder.too_long and on_long_row == "refuse":
        raise _too_long(builder.too_long, limit=max_sequence_length, param=param)
    rows = builder.rows()
    if not len(rows):
        raise user_error(
            "no_supervised_tokens",
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


def _read(path: Path, param: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except ValueError as error:
                    raise _bad_row(number, "is not a JSON object in UTF-8", param=param) from error


class _Unusable(Exception):
    """Why a row cannot be trained on, and what to do where that is more than correcting the line."""

    def __init__(self, problem: str, *, hint: str | None = None) -> None:
        super().__init__(problem)
        self.hint = hint


def _marked_texts(
    row: dict[str, Any],
    *,
    renderer: ChatRenderer,
    tokenizer: PreTrainedTokenizerBase,
    objective: str,
) -> list[Sequence]:
    if not isinstance(row, dict):
        raise _Unusable("is not a JSON object")
    is_pair = "preferred_output" in row or "chosen" in row
    if is_pair != (objective == "dpo"):
        kind, fitting = ("a preference pair", "dpo") if is_pair else ("not a preference pair", "supervised")
        raise _Unusable(
            f"is {kind}, which method {objective!r} cannot train on",
            hint=f'Create the job with method {{"type": "{fitting}"}}, or give it a file of other rows.',
        )
    end, begin = str(tokenizer.eos_token or ""), _beginning(tokenizer)
    try:
        if "chosen" in row:
            return _chosen_and_rejected(row, renderer, begin=begin, end=end)
        if is_pair:
            return _pair(row, renderer)
        if "messages" in row:
            return [(renderer.mark(row["messages"], tools=row.get("tools")),)]
        if "prompt" in row:
            return [(MarkedText(begin + str(row["prompt"]), ()), _taught(str(row["completion"]) + end))]
        return [(_taught(begin + str(row["text"]) + end),)]
    except (KeyError, TypeError, AttributeError) as error:
        raise _Unusable(f"lacks or misuses {error}") from error


def _beginning(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that this tokenizer puts before plain text, if it does."""
    first = tokenizer("x").input_ids[:1]
    return str(tokenizer.bos_token) if first == [tokenizer.bos_token_id] else ""


def _taught(text: str) -> MarkedText:
    return MarkedText(text, ((0, len(text)),))


def _pair(row: dict[str, Any], renderer: ChatRenderer) -> list[Sequence]:
    """The preferred conversation, then the other. Only the outputs are supervised, not assistant turns of the input."""
    context = [{**message, "weight": 0} for message in row["input"]["messages"]]
    tools = row["input"].get("tools")
    return [(renderer.mark(context + row[key], tools=tools),) for key in ("preferred_output", "non_preferred_output")]


def _chosen_and_rejected(row: dict[str, Any], renderer: ChatRenderer, *, begin: str, end: str) -> list[Sequence]:
    """The same from `prompt`, `chosen` and `rejected`: plain text if all are, else turns of a conversation."""
    answers = [row["chosen"], row["rejected"]]
    if all(isinstance(part, str) for part in (row["prompt"], *answers)):
        return [(MarkedText(begin + row["prompt"], ()), _taught(answer + end)) for answer in answers]
    context = [{**message, "weight": 0} for message in _turns(row["prompt"], "user")]
    return [(renderer.mark(context + _turns(answer, "assistant")),) for answer in answers]


def _turns(value: str | list[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _tokenize(sequences: list[Sequence], tokenizer: PreTrainedTokenizerBase) -> list[tuple[np.ndarray, np.ndarray]]:
    """Token ids, int32, and for each whether it is supervised, bool, of each sequence."""
    pieces = [piece for sequence in sequences for piece in sequence]
    encoded = tokenizer(
        [piece.text for piece in pieces],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    tokenized = iter(
        (np.asarray(ids, dtype=np.int32), _marks(np.asarray(offsets, dtype=np.int64).reshape(-1, 2), piece.spans))
        for ids, offsets, piece in zip(encoded["input_ids"], encoded["offset_mapping"], pieces, strict=True)
    )
    joined = []
    for sequence in sequences:
        ids, marks = zip(*(next(tokenized) for _ in sequence), strict=True)
        joined.append((np.concatenate(ids), np.concatenate(marks)))
    return joined


def _marks(offsets: np.ndarray, spans: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Whether each token overlaps a span. A token that straddles a span's start (a merged header) counts as written."""
    marks = np.zeros(len(offsets), dtype=bool)
    for start, end in spans:
        marks |= (offsets[:, 1] > start) & (offsets[:, 0] < end)
    return marks


class _Builder:
    """Collects sequences row by row into the flat arrays of `Rows`."""

    def __init__(self, *, sequences_per_row: int, max_sequence_length: int) -> None:
        self._sequences_per_row = sequences_per_row
        self._limit = max_sequence_length
        self._tokens: list[np.ndarray] = []
        self._marks: list[np.ndarray] = []
        self._line_numbers: list[int] = []
        self._unsupervised = 0
        self.too_long: list[tuple[int, int]] = []  # line number and tokens

    def add(self, line_numbers: list[int], sequences: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Keep the rows that still have a supervised token in each of their sequences after truncation."""
        per_row = self._sequences_per_row
        for index, number in enumerate(line_numbers):
            row = sequences[index * per_row : (index + 1) * per_row]
            longest = max(len(tokens) for tokens, _ in row)
            if longest > self._limit:
                self.too_long.append((number, longest))
            cut = [(tokens[: self._limit], marks[: self._limit]) for tokens, marks in row]
            if not all(marks[1:].any() for _, marks in cut):
                self._unsupervised += 1
                continue
            self._line_numbers.append(number)
            for tokens, marks in cut:
                self._tokens.append(tokens)
                self._marks.append(marks)

    def rows(self) -> Rows:
        """Everything that was added."""
        lengths = [len(tokens) for tokens in self._tokens]
        return Rows(
            tokens=np.concatenate([np.zeros(0, np.int32), *self._tokens]),
            supervised=np.concatenate([np.zeros(0, bool), *self._marks]),
            offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
            line_numbers=np.asarray(self._line_numbers, dtype=np.int64),
            sequences_per_row=self._sequences_per_row,
            truncated=len(self.too_long),
            unsupervised=self._unsupervised,
        )


def _too_long(rows: list[tuple[int, int]], *, limit: int, param: str) -> Exception:
    shown = ", ".join(f"line {number} ({tokens} tokens)" for number, tokens in rows[:SHOWN_LINES])
    more = f" and {len(rows) - SHOWN_LINES} more" if len(rows) > SHOWN_LINES else ""
    longest = max(tokens for _, tokens in rows)
    return user_error(
        "row_too_long",
        f"{len(rows)} rows of the {param.replace('_', ' ')} are longer than {limit} tokens: {shown}{more}.",
        hint=f"Shorten them, raise max_seq_length to {longest}, or let them be cut with on_long_row 'truncate'.",
        param=param,
    )


def _bad_row(number: int, problem: str, *, param: str, hint: str | None = None) -> Exception:
    return user_error(
        "invalid_training_file",
        f"Line {number} of the {param.replace('_', ' ')} {problem}.",
        hint=hint or "Correct the line and upload the file again.",
        param=param,
    )
