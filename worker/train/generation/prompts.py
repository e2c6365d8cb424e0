"""Prompts of a file, as the texts that a model goes on with: written as its training rows are."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunesmith.tuning.codes import ErrorCode
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
    lines = enumerate(_lines(file), start=1)
    return [_text(number, line, renderer=renderer, begin=begin) for number, line in lines if line.strip()]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(f"The prompts cannot be read: {error}.") from error


def _text(number: int, line: str, *, renderer: ChatRenderer, begin: str) -> str:
    try:
        row = json.loads(line)
        if "prompt" in row:
            return begin + str(row["prompt"])
        return renderer.prompt(_asked(row["messages"]), tools=row.get("tools"))
    except (TemplateRefusal, TooSlow) as refusal:
        raise user_error(
            ErrorCode.CHAT_TEMPLATE_ERROR,
            f"Line {number} of the prompts cannot be rendered: the model's chat template says: {refusal}.",
            hint="Change the prompt as the template asks, or choose a model whose template takes such prompts.",
            param="prompts",
        ) from refusal
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _invalid(f"Line {number} of the prompts lacks or misuses {error}.") from error


def _asked(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the assistant's last message, which is what to answer."""
    return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages


def _invalid(message: str) -> JobFailure:
    return user_error(
        ErrorCode.INVALID_PROMPTS,
        message,
        hint='Each line is JSON in UTF-8: {"messages": [...]} with at least one message, or {"prompt": "..."}.',
        param="prompts",
    )
