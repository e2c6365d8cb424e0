"""From one training row to the texts that it teaches, with every stretch marked that the model should learn to write.

A preference pair becomes two texts, every other row one.
"""

from collections.abc import Sequence
from datetime import date

from transformers import PreTrainedTokenizerBase

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.datasets.row_errors import CORRECT
from tunesmith.tuning.datasets.row_formats import Chat, Completion, PreferencePair, Row, Text, sequences_of
from tunesmith.worker.train.chat.conversation import ChatRenderer, MarkedText, UnknownTurn
from tunesmith.worker.train.chat.template import TemplateRefusal, TooSlow


class UnusableRow(Exception):
    """Why a row cannot be trained on, as the end of a sentence about its line, and what to do about it."""

    def __init__(self, problem: str, *, hint: str = CORRECT, code: ErrorCode = ErrorCode.INVALID_TRAINING_FILE) -> None:
        super().__init__(problem)
        self.hint, self.code = hint, code


class RowRenderer:
    """Renders rows for one tokenizer and objective; `stop_tokens` and `today` as for `ChatRenderer`."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, objective: str, stop_tokens: Sequence[str] | None, today: date
    ) -> None:
        self.chat = ChatRenderer(tokenizer, stop_tokens=stop_tokens, today=today)
        self._is_dpo = objective == "dpo"
        self._objective = objective
        self._stop = next(iter(self.chat.stop_tokens), None)
        self._begin = beginning(tokenizer)

    @property
    def texts_per_row(self) -> int:
        """Two for a preference pair."""
        return 2 if self._is_dpo else 1

    def texts(self, row: Row) -> list[MarkedText]:
        """What the row teaches.

        Raises:
            UnusableRow: it is of another kind, or the chat template will not have it.
        """
        self._check_kind(row)
        try:
            return [self._text(sequence) for sequence in sequences_of(row)]
        except TemplateRefusal as refusal:
            raise UnusableRow(
                f"cannot be rendered: the model's chat template says: {refusal}",
                code=ErrorCode.CHAT_TEMPLATE_ERROR,
                hint="Change the row as the template asks, or choose a model whose template takes such rows.",
            ) from refusal
        except TooSlow as slow:
            raise UnusableRow(
                f"cannot be rendered: with the model's chat template {slow}",
                code=ErrorCode.CHAT_TEMPLATE_ERROR,
                hint="Split the conversation into several rows; turns beyond max_seq_length are not trained on anyway.",
            ) from slow
        except UnknownTurn as unknown:
            raise UnusableRow(
                f"cannot be rendered: the model's chat template does not show where message {unknown.message} begins "
                "and ends",
                code=ErrorCode.CHAT_TEMPLATE_UNSUPPORTED,
                hint="Use a model whose template renders each message after the ones before it, such as ChatML.",
            ) from unknown

    def _check_kind(self, row: Row) -> None:
        is_pair = isinstance(row, PreferencePair)
        if is_pair == self._is_dpo:
            return
        kind, fitting = ("a preference pair", "dpo") if is_pair else ("not a preference pair", "supervised")
        raise UnusableRow(
            f"is {kind}, which method {self._objective!r} cannot train on",
            hint=f'Create the job with method {{"type": "{fitting}"}}, or give it a file of other rows.',
        )

    def _text(self, sequence: Chat | Completion | Text) -> MarkedText:
        match sequence:
            case Chat():
                return self.chat.mark(sequence)
            case Completion(prompt, completion):
                return self._completion(prompt, completion)
            case Text(text):
                return self._with_stop(self._begin + text, taught_from=0)

    def _completion(self, prompt: str, completion: str) -> MarkedText:
        begun = self._begin + prompt
        return self._with_stop(begun + completion, taught_from=len(begun), prompt_end=len(begun))

    def _with_stop(self, text: str, *, taught_from: int, prompt_end: int = 0) -> MarkedText:
        spans = ((taught_from, len(text)),)
        if self._stop is not None and text.endswith(self._stop):
            return MarkedText(text, spans, prompt_end=prompt_end, end=self._stop)
        is_endless = self._stop is None
        return MarkedText(text, spans, prompt_end=prompt_end, stop=self._stop, end=self._stop, is_endless=is_endless)


def beginning(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that this tokenizer puts before plain text, if it does."""
    first = tokenizer("x").input_ids[:1]
    return str(tokenizer.bos_token) if tokenizer.bos_token and first == [tokenizer.bos_token_id] else ""
