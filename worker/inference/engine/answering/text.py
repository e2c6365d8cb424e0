"""From tokens to text as they come: no character is cut in two, and nothing of a stop string is ever shown."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_MOST_UNFINISHED_TOKENS = 16  # a character has at most four bytes; whoever ends none for so long writes no text
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """The text of one answer. Special tokens are left out."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._tokens: list[int] = []
        self._shown_from, self._unread_from = 0, 0  # decoded together: spaces depend on what stands before
        self._held = ""  # may be the beginning of a stop string
        self.is_stopped = False

    def push(self, token: int) -> str:
        """What is certain to be shown after another token. Empty once a stop string was met."""
        self._tokens.append(token)
        text = self._decoded()
        if text.endswith(_UNFINISHED) and len(self._tokens) - self._unread_from < _MOST_UNFINISHED_TOKENS:
            return ""
        return self._release(text)

    def flush(self) -> str:
        """What was held back, at the end."""
        text = self._release(self._decoded())
        rest, self._held = self._held, ""
        return text + rest

    def _decoded(self) -> str:
        before = self._decode(self._tokens[self._shown_from : self._unread_from])
        return self._decode(self._tokens[self._shown_from :])[len(before) :]

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _release(self, text: str) -> str:
        self._shown_from, self._unread_from = self._unread_from, len(self._tokens)
        if self.is_stopped:
            return ""
        whole = self._held + text
        found = [place for place in (whole.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return whole[: min(found)]
        held = max((_overlap(whole, stop) for stop in self._stops), default=0)
        self._held = whole[len(whole) - held :]
        return whole[: len(whole) - held]


def bytes_of_token(tokenizer: PreTrainedTokenizerBase, token: int) -> bytes:
    """What a token writes when it stands alone; it may be a part of a character."""
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    if _UNFINISHED not in text:
        return text.encode()
    written = str(tokenizer.convert_ids_to_tokens(token))
    if byte := _BYTE_TOKEN.fullmatch(written):
        return bytes([int(byte[1], 16)])
    if all(letter in _BYTE_OF_LETTER for letter in written):
        return bytes(_BYTE_OF_LETTER[letter] for letter in written)
    return text.encode()


def _byte_letters() -> dict[str, int]:
    """The letters by which GPT-2's tokenizer, and most after it, write bytes: visible ones stand for themselves."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_letters()
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # as SentencePiece writes one


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text that a stop string may begin with."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if stop.startswith(text[-length:])), 0)
