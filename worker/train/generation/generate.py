"""`python -m tunesmith.worker.train.generation.generate --model DIR [--adapter DIR] --prompts FILE`: greedy answers.

Each line of the prompts is {"messages": [...], "tools": [...]?} or {"prompt": "..."}; a trailing assistant message is
left out. Each line of the answer, as JSON, is {"index", "text", "tokens", "finished"}.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.worker.train import environment  # noqa: F401 - before torch

PROMPTS_AT_ONCE = 8


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one line of JSON {"code", "message", "hint"} on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tunesmith.worker.train.generation.generate", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args(arguments)
    from tunesmith.tuning.errors import JobFailure

    try:
        for answer in answers(**vars(options)):
            print(json.dumps(answer, ensure_ascii=False), flush=True)
    except JobFailure as error:
        failure = error.failure
        print(json.dumps({"code": failure.code, "message": failure.message, "hint": failure.hint}), file=sys.stderr)
        return 1
    return 0


def answers(*, model: Path, adapter: Path | None, prompts: Path, max_new_tokens: int) -> Iterator[dict[str, Any]]:
    """Answer every prompt in order.

    Raises:
        JobFailure: `broken_model`, `broken_chat_template`, `adapter_of_another_base`, or a prompt is at fault:
            `invalid_prompts`, or `chat_template_error` with the template's words.
    """
    from tunesmith.worker.train.chat.conversation import ChatRenderer
    from tunesmith.worker.train.chat.stop_tokens import stop_tokens
    from tunesmith.worker.train.generation.generator import Generator
    from tunesmith.worker.train.generation.prompts import read_prompts
    from tunesmith.worker.train.models.model import load_tokenizer

    tokenizer = load_tokenizer(model)
    renderer = ChatRenderer(tokenizer, stop_tokens=stop_tokens(model, tokenizer))
    texts = read_prompts(prompts, renderer=renderer, tokenizer=tokenizer)
    speaker = Generator.load(model, adapter=adapter, tokenizer=tokenizer, ends=renderer.ends())
    for first in range(0, len(texts), PROMPTS_AT_ONCE):
        group = texts[first : first + PROMPTS_AT_ONCE]
        for index, answer in enumerate(speaker.answer(group, max_new_tokens=max_new_tokens)):
            yield {"index": first + index, **answer}


if __name__ == "__main__":
    sys.exit(main())
