"""Our loss mask beside that of transformers, token by token, for one template and one conversation."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from benchmarks.templates.twins import Template, marked_by_twin, tokenizer_for
from tunesmith.tuning.datasets.message_parser import parse_chat
from tunesmith.worker.train.chat.conversation import ChatRenderer, UnknownTurn
from tunesmith.worker.train.chat.template import TemplateRefusal

_MARK = re.compile(r"(\{%-?)\s*generation\s*(-?%\})")
_END_MARK = re.compile(r"(\{%-?)\s*endgeneration\s*(-?%\})")
# What GLM's and Gemma 4's settings call an end of generation beside the tokenizer's own token.
_STOPS = {"glm": ("<|user|>", "<|observation|>"), "gemma4": ("<|tool_response>",), "diffusion": ("<|tool_response>",)}


@dataclass(frozen=True)
class Comparison:
    """What came of it: `more` and `less` are stretches that only we, or only transformers, would train on.

    refusal: why there is nothing to compare; spans: what we train on; left_out: fields that the template does not
    print; stop: the token that we put behind the text.
    """

    more: tuple[str, ...] = ()
    less: tuple[str, ...] = ()
    refusal: str | None = None
    spans: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    stop: str | None = None

    @property
    def is_exact(self) -> bool:
        """Whether both masks are the same."""
        return self.refusal is None and not self.more and not self.less


def without_marks(twin: str) -> str:
    """The same template for a renderer that must find turns by itself: marks become blocks that do nothing."""
    return _END_MARK.sub(r"\1 endif \2", _MARK.sub(r"\1 if true \2", twin))


def stop_tokens(template: Template, tokenizer: Any) -> tuple[str, ...]:
    """The tokens that end a reply of the template's family, the tokenizer's own first."""
    more = next((tokens for name, tokens in _STOPS.items() if template.name.startswith(name)), ())
    return (str(tokenizer.eos_token), *more)


def compare(template: Template, conversation: dict[str, Any], *, marked: bool = False) -> Comparison:
    """Masks of a conversation by us, from the twin without its marks, and by transformers from the twin.

    `marked`: we may read the marks too.
    """
    assert template.twin is not None
    source = template.twin if marked else without_marks(template.twin)
    tokenizer = tokenizer_for(template)
    tokenizer.chat_template = source
    chat = parse_chat(conversation)
    renderer = ChatRenderer(tokenizer, stop_tokens=stop_tokens(template, tokenizer), today=datetime.now(UTC).date())
    try:
        ours = renderer.mark(chat)
    except TemplateRefusal as refusal:
        return Comparison(refusal=f"the template: {refusal}")
    except UnknownTurn as unknown:
        return Comparison(refusal=f"turn of message {unknown.message} not found")
    ids, theirs = marked_by_twin(template, tokenizer, renderer.formed(chat), conversation.get("tools"))
    encoded = tokenizer(ours.text, add_special_tokens=False, return_offsets_mapping=True)
    own = _mask(np.asarray(encoded["offset_mapping"]).reshape(-1, 2), ours.spans)
    length = min(len(ids), len(own))
    assert list(encoded["input_ids"])[:length] == ids[:length], "the twin without marks renders another text"
    stretches = _stretches(tokenizer, ids[:length], own[:length], np.asarray(theirs[:length], dtype=bool))
    return Comparison(
        more=tuple(text for text, is_ours in stretches if is_ours),
        less=tuple(text for text, is_ours in stretches if not is_ours),
        spans=tuple(ours.text[start:end] for start, end in ours.spans),
        left_out=ours.left_out,
        stop=ours.stop,
    )


def _mask(offsets: np.ndarray, spans: tuple[tuple[int, int], ...]) -> np.ndarray:
    mask = np.zeros(len(offsets), dtype=bool)
    for start, end in spans:
        mask |= (offsets[:, 1] > start) & (offsets[:, 0] < end)
    return mask


def _stretches(tokenizer: Any, ids: list[int], own: np.ndarray, theirs: np.ndarray) -> list[tuple[str, bool]]:
    """Text of each run of tokens that one of both marks, and whether we do."""
    found, start = [], 0
    for place in range(1, len(ids) + 1):
        if place < len(ids) and (own[place], theirs[place]) == (own[start], theirs[start]):
            continue
        if own[start] != theirs[start]:
            found.append((str(tokenizer.decode(ids[start:place])), bool(own[start])))
        start = place
    return found
