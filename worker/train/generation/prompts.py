"""Prompts of a file, as the texts that a model goes on with: written as its training rows are."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.datasets.row_errors import BadRow
from tunesmith.tuning.datasets.row_formats import Chat
from tunesmith.tuning.datasets.row_parser import parse_prompt
from tunesmith.tuning.errors import JobFailure
from tunesmith.worker.train.chat.conversation import ChatRenderer
from tunesmith.worker.train.chat.template import TemplateRefusal, TooSlow
from tunesmith.worker.train.data.row_texts import beginning
from tunesmith.worker.train.failures import user_error


def read_prompts(file: Path, *, renderer: ChatRenderer, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Each line is {"messages": [...], "tools": [...]?} or {"prompt": "..."}.

    Raises:
        JobFailure: `broken_chat_template`, `chat_template_error` with the template's words, or `invalid_prompts`.
    """
    begin = beginning(tokenizer)
    asked = ((number, _parsed(line, number=number)) for number, line in enumerate(_lines(file), start=1))
    return [
        _text(prompt, number=number, renderer=renderer, begin=begin) for number, prompt in asked if prompt is not None
    ]


def _lines(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().split(b"\n")
    except OSError as error:
        raise _invalid(f"The prompts cannot be read: {error}.") from error


def _parsed(line: bytes, *, number: int) -> Chat | str | None:
    try:
        return parse_prompt(line, number=number)
    except BadRow as bad:
        raise _invalid(f"Line {number} of the prompts cannot be used: {bad.reason}.") from bad


def _text(prompt: Chat | str, *, number: int, renderer: ChatRenderer, begin: str) -> str:
    if isinstance(prompt, str):
        return begin + prompt
    try:
        return renderer.prompt(_asked(prompt))
    except (TemplateRefusal, TooSlow) as refusal:
        raise user_error(
            ErrorCode.CHAT_TEMPLATE_ERROR,
            f"Line {number} of the prompts cannot be rendered: the model's chat template says: {refusal}.",
            hint="Change the prompt as the template asks, or choose a model whose template takes such prompts.",
            param="prompts",
        ) from refusal


def _asked(chat: Chat) -> Chat:
    """Without the assistant's last message, which is what to answer."""
    return chat._replace(messages=chat.messages[:-1]) if chat.messages[-1].role == "assistant" else chat


def _invalid(message: str) -> JobFailure:
    return user_error(
        ErrorCode.INVALID_PROMPTS,
        message,
        hint='Each line is JSON in UTF-8: {"messages": [...]} with at least one message, or {"prompt": "..."}.',
        param="prompts",
    )
