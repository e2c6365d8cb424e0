"""`python -m tunesmith.worker.train.mask_preview MODEL FILE`: which tokens of each row are taught, as JSON.

Rows go through the renderer and the tokenizer that training uses; no weights are read.
"""

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunesmith.tuning.datasets.row_errors import BadRow
from tunesmith.tuning.datasets.row_formats import PreferencePair, Row
from tunesmith.tuning.datasets.row_parser import parse_row
from tunesmith.tuning.errors import JobFailure
from tunesmith.worker.train.chat.conversation import DEFAULT_DAY
from tunesmith.worker.train.chat.stop_tokens import stop_tokens
from tunesmith.worker.train.data.row_texts import RowRenderer, UnusableRow
from tunesmith.worker.train.data.tokenize import TokenizedText, tokenize
from tunesmith.worker.train.models.model import load_tokenizer


def main() -> int:
    """Print a list with line, counts and parts of each row; 1 and the reason on stderr where there is none."""
    model, file = map(Path, sys.argv[1:3])
    try:
        print(json.dumps(preview(model, file.read_bytes().splitlines())))
    except (UnusableRow, BadRow) as bad:
        return _refuse(str(bad), hint=bad.hint if isinstance(bad, UnusableRow) else bad.fix)
    except JobFailure as error:
        return _refuse(error.failure.message, hint=error.failure.hint)
    return 0


def preview(model: Path, lines: list[bytes]) -> list[dict[str, Any]]:
    """Each row's texts: a preference pair has two.

    Raises:
        BadRow, UnusableRow: a row that cannot be trained on.
        JobFailure: the model has no tokenizer.
    """
    tokenizer = load_tokenizer(model)
    stops = stop_tokens(model, tokenizer)
    shown = []
    for number, line in enumerate(lines, start=1):
        row = parse_row(line, number=number)
        if row is None:  # an empty line
            continue
        objective = "dpo" if isinstance(row, PreferencePair) else "supervised"
        renderer = RowRenderer(tokenizer, objective=objective, stop_tokens=stops, today=DEFAULT_DAY)
        shown += [_shown(text, number, tokenizer) for text in _tokenized(row, renderer, tokenizer)]
    return shown


def _tokenized(row: Row, renderer: RowRenderer, tokenizer: PreTrainedTokenizerBase) -> list[TokenizedText]:
    return tokenize(renderer.texts(row), tokenizer)


def _shown(text: TokenizedText, line: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    marked = groupby(zip(text.ids.tolist(), text.marks.tolist(), strict=True), key=lambda pair: pair[1])
    parts = [(tokenizer.decode([number for number, _ in pairs]), is_taught) for is_taught, pairs in marked]
    return {
        "line": line,
        "tokens": len(text.ids),
        "supervised_tokens": int(text.marks.sum()),
        "parts": parts,
    }


def _refuse(message: str, *, hint: str | None) -> int:
    print(json.dumps({"message": message, "hint": hint}), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
