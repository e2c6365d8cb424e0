"""From one training row to the texts that it teaches, with every stretch marked that the model should learn to write.

Four kinds of row, told apart by their keys: chat (`messages`), `prompt` and `completion`, plain `text`, and
preference pairs (`input`, `preferred_output`, `non_preferred_output`, or `prompt`, `chosen`, `rejected`), which become
two texts each.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.train.chat.conversation import ChatRenderer, MarkedText, UnknownTurn
from tunesmith.worker.train.chat.template import TemplateRefusal, TooSlow

Row = dict[str, Any]


class UnusableRow(Exception):
    """Why a row cannot be trained on, as the end of a sentence about its line, and what to do about it."""

    def __init__(
        self,
        problem: str,
        *,
        hint: str = "Correct the line and upload the file again.",
        code: ErrorCode = ErrorCode.INVALID_TRAINING_FILE,
    ) -> None:
        super().__init__(problem)
        self.hint = hint
        self.code = code


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

    def texts(self, row: Any) -> list[MarkedText]:
        """What the row teaches.

        Raises:
            UnusableRow: it is of another kind, lacks something, or the chat template will not have it.
        """
        if not isinstance(row, dict):
            raise UnusableRow("is not a JSON object")
        self._check_kind(row)
        try:
            return self._texts(row)
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
        except (KeyError, TypeError, AttributeError) as error:
            raise UnusableRow(f"lacks or misuses {error}") from error

    def _check_kind(self, row: Row) -> None:
        is_pair = "preferred_output" in row or "chosen" in row
        if is_pair == self._is_dpo:
            return
        kind, fitting = ("a preference pair", "dpo") if is_pair else ("not a preference pair", "supervised")
        raise UnusableRow(
            f"is {kind}, which method {self._objective!r} cannot train on",
            hint=f'Create the job with method {{"type": "{fitting}"}}, or give it a file of other rows.',
        )

    def _texts(self, row: Row) -> list[MarkedText]:
        if "chosen" in row:
            return self._chosen_and_rejected(row)
        if self._is_dpo:
            return self._pair(row)
        if "messages" in row:
            return [self.chat.mark(row["messages"], tools=row.get("tools"))]
        if "prompt" in row:
            return [self._completion(str(row["prompt"]), str(row["completion"]))]
        return [self._plain(str(row["text"]))]

    def _pair(self, row: Row) -> list[MarkedText]:
        """The preferred conversation, then the other. Only the outputs are taught, not assistant turns of the input."""
        context = [{**message, "weight": 0} for message in row["input"]["messages"]]
        tools = row["input"].get("tools")
        return [self.chat.mark(context + row[key], tools=tools) for key in ("preferred_output", "non_preferred_output")]

    def _chosen_and_rejected(self, row: Row) -> list[MarkedText]:
        """The same from `prompt`, `chosen` and `rejected`: plain text if all are, else turns of a conversation."""
        answers = [row["chosen"], row["rejected"]]
        if all(isinstance(part, str) for part in (row["prompt"], *answers)):
            return [self._completion(row["prompt"], answer) for answer in answers]
        context = [{**message, "weight": 0} for message in _turns(row["prompt"], "user")]
        return [self.chat.mark(context + _turns(answer, "assistant")) for answer in answers]

    def _completion(self, prompt: str, completion: str) -> MarkedText:
        begun = self._begin + prompt
        return self._with_stop(begun + completion, taught_from=len(begun), prompt_end=len(begun))

    def _plain(self, text: str) -> MarkedText:
        return self._with_stop(self._begin + text, taught_from=0)

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


def _turns(value: str | list[Row], role: str) -> list[Row]:
    return [{"role": role, "content": value}] if isinstance(value, str) else value
