"""Real chat templates and their twins with `{% generation %}` marks, as the package TRL carries them.

Nothing of them is kept here: the package is fetched from the package index when they are asked for.
"""

import re
import subprocess
import sys
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PACKAGE = "trl==1.16.0"
_FOLDER = "trl/chat_templates/"
_TWIN = "_training"
# Tokens as families write them: <|im_start|>, <｜User｜>, <start_of_turn>, [INST], <tool_call>, </think> ...
_TOKENS = re.compile(
    r"\[\|[a-z]+\|\]|<[|｜][^<>|｜\s]{1,40}[|｜]>|<\|?[a-z_]+\|?>|</[a-z_]+>|\[/?[A-Z_]{3,20}\]|\[gMASK\]|<sop>"
)
# Tags that are ordinary text to every family that prints them.
_ORDINARY = {"<tools>", "</tools>", "<arg_key>", "<function>", "</function>", "</parameter>", "<b>", "</b>"}


class Template(NamedTuple):
    """One template and, where there is one, its marked twin."""

    name: str
    source: str
    twin: str | None


def templates(cache: Path) -> list[Template]:
    """All templates of the package, fetched into `cache` unless they lie there."""
    wheel = _wheel(cache)
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(_FOLDER) and name.endswith(".jinja")]
        sources = {Path(name).stem: archive.read(name).decode() for name in names}
    return [
        Template(name, source, sources.get(name + _TWIN))
        for name, source in sorted(sources.items())
        if not name.endswith(_TWIN)
    ]


def tokenizer_for(template: Template) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that keeps the template's own tokens whole, as its family's does."""
    text = template.source + (template.twin or "")
    tokens = sorted(set(_TOKENS.findall(text)) - _ORDINARY)
    end = _end_token(tokens)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(["the weather in Paris and the time in Rome", text[:2000]], trainer)
    core.add_special_tokens(["<s>", *[token for token in tokens if token not in ("<s>", end)], end])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token=end, pad_token="<s>", chat_template=template.source
    )


def marked_by_twin(
    template: Template, tokenizer: Any, messages: list[dict[str, Any]], tools: list[Any] | None
) -> tuple[list[int], list[int]]:
    """Token ids and the assistant mask of transformers itself, from the marked twin."""
    encoded = tokenizer.apply_chat_template(
        messages,
        tools=tools,
        chat_template=template.twin,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return list(encoded["input_ids"]), list(encoded["assistant_masks"])


def _end_token(tokens: list[str]) -> str:
    """The token by which the family's settings end a reply."""
    known = ("<|im_end|>", "<|eot_id|>", "<|return|>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<turn|>")
    more = ("[|endofturn|]", "<|eot|>", "<end_of_turn>", "<|end|>", "<end_of_utterance>", "<|endoftext|>")
    return next((token for token in (*known, *more) if token in tokens), "</s>")


@lru_cache(maxsize=1)
def _wheel(cache: Path) -> Path:
    found = list(cache.glob("trl-*.whl"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), PACKAGE]
        subprocess.run(command, check=True)
        found = list(cache.glob("trl-*.whl"))
    return found[0]
