"""One GGUF file of a model folder, for llama.cpp and what stands on it.

    python -m tunesmith.worker.train.export.write_gguf MODEL_FOLDER OUT_FILE [--type f16]

Weights stay in their own type, and each is written by itself. The file is read back by transformers' own reader, and
kept only when it says what the folder says.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.train import environment  # noqa: F401 - before torch
from tunesmith.worker.train.export import gguf_tokenizer
from tunesmith.worker.train.export.gguf_tokenizer import GgufTokenizer, NoGgufForm
from tunesmith.worker.train.export.merge_folders import SAMPLE_TEXT, computing_in_fp32, token_log_probabilities

if TYPE_CHECKING:
    import torch
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

ARCHITECTURES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
MEAN_TOLERANCE_NATS = {"f32": 1e-4, "f16": 0.01, "bf16": 0.05, "q8_0": 0.1}  # per token of a sample text
_PAIRS_TOGETHER = "llama"  # the only one whose rotary pairs lie beside each other in GGUF


class Differs(Exception):
    """What was read back says something else than the model."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 and one line of JSON, or 1 with one line {"code", "message", "hint"} on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tunesmith.worker.train.export.write_gguf", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--type", choices=MEAN_TOLERANCE_NATS, default="f16")
    options = parser.parse_args(arguments)
    try:
        print(json.dumps(write(options.folder, options.file, kind=options.type)))
    except ImportError as error:
        return _refuse(ErrorCode.MISSING_PACKAGE, f"{error}", hint="Install the worker extra.")
    except NoGgufForm as error:
        return _refuse(ErrorCode.NO_GGUF_FORM, f"{error}", hint="Take --for transformers or --for vllm.")
    except Differs as error:
        return _refuse(ErrorCode.EXPORT_DIFFERS, f"{error}", hint="Take --type f32, or --for transformers.")
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
    ) as error:  # also what transformers raises for what it reads back
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return _refuse(ErrorCode.TOOL_FAILED, f"No GGUF file: {reason}", hint="Look at disk and folders.")
    return 0


def write(folder: Path, file: Path, *, kind: str) -> dict[str, Any]:
    """Write `file` from a folder with config, safetensors and tokenizer; returns what was compared.

    Raises:
        NoGgufForm: the architecture, its rotary angles or the tokenizer has no form that is known here.
        Differs: what was read back is not the model; nothing is left.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    architecture = _architecture(AutoConfig.from_pretrained(folder, local_files_only=True))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True).eval()
    words = gguf_tokenizer.describe(tokenizer, folder, vocabulary_size=model.config.vocab_size)
    tokens = tokenizer(SAMPLE_TEXT, return_tensors="pt")["input_ids"]
    with computing_in_fp32(model):
        wanted = token_log_probabilities(model, tokens)
    aside = file.with_name(f".{file.name}.part.gguf")
    try:
        _write(aside, model, words, architecture=architecture, kind=kind, name=folder.name)
        del model  # before what was written is read: one of them in memory at a time
        told = _compared(aside, wanted, tokens, words, kind=kind)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
    return {"type": kind, "bytes": file.stat().st_size, **told}


def _architecture(config: Any) -> str:
    name = (config.architectures or ["a model of no name"])[0]
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise NoGgufForm(f"{name} has no GGUF form here: {known} have.")
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotary not in ("default", "llama3"):
        raise NoGgufForm(f"{name} with rotary angles of type {rotary} has no GGUF form here: default and llama3 have.")
    if getattr(config, "use_sliding_window", False):
        raise NoGgufForm(f"{name} with a sliding window has no GGUF form here.")
    return ARCHITECTURES[name]


def _write(file: Path, model: Any, words: GgufTokenizer, *, architecture: str, kind: str, name: str) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(file, architecture)
    try:
        writer.add_name(name)
        _add_sizes(writer, model.config, kind=kind)
        _add_words(writer, words)
        weights = list(_weights(model, architecture=architecture, kind=kind))
        for weight in weights:
            weight.announce(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for weight in weights:
            writer.write_tensor_data(weight.data())
    finally:
        writer.close()


def _add_sizes(writer: "GGUFWriter", config: Any, *, kind: str) -> None:
    from gguf import LlamaFileType

    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_rope_dimension_count(head_size)
    writer.add_vocab_size(config.vocab_size)
    types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_file_type(LlamaFileType[types[kind]])


def _add_words(writer: "GGUFWriter", words: GgufTokenizer) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.cut)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.kinds)
    writer.add_token_merges(words.merges)
    for name, number in words.special_ids.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(words.adds_bos)
    writer.add_add_space_prefix(False)
    if words.chat_template is not None:
        writer.add_chat_template(words.chat_template)


@dataclass(frozen=True)
class _Weight:
    """One tensor of the file: announced with all others first, and made in the file's type when its turn comes."""

    name: str
    values: Callable[[], "torch.Tensor"]  # fp32, in the order of rows that GGUF has
    shape: tuple[int, ...]
    stored: "GGMLQuantizationType"

    def announce(self, writer: "GGUFWriter") -> None:
        import numpy as np
        from gguf import GGML_QUANT_SIZES

        block, block_bytes = GGML_QUANT_SIZES[self.stored]
        length_bytes = math.prod(self.shape) // block * block_bytes
        writer.add_tensor_info(self.name, self.shape, np.dtype("float32"), length_bytes, raw_dtype=self.stored)

    def data(self) -> Any:
        from gguf import quants

        return quants.quantize(self.values().contiguous().numpy(), self.stored)


def _weights(model: Any, *, architecture: str, kind: str) -> Iterator[_Weight]:
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, get_tensor_name_map

    config = model.config
    by_name = {name: number for number, name in MODEL_ARCH_NAMES.items()}
    names = get_tensor_name_map(MODEL_ARCH(by_name[architecture]), config.num_hidden_layers)
    if (factors := _rotary_factors(model)) is not None:
        yield _Weight("rope_freqs.weight", lambda: factors, tuple(factors.shape), GGMLQuantizationType.F32)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise NoGgufForm(f"The weight {name} has no name in GGUF.")
        order = partial(_paired, name, config=config) if architecture == _PAIRS_TOGETHER else _as_it_is
        stored = GGMLQuantizationType[_type_of(tensor, kind) if tensor.dim() > 1 else "F32"]
        yield _Weight(theirs, partial(_ordered, tensor, order), tuple(tensor.shape), stored)


def _ordered(tensor: "torch.Tensor", order: Callable[["torch.Tensor"], "torch.Tensor"]) -> "torch.Tensor":
    return order(tensor.float())


def _as_it_is(tensor: "torch.Tensor") -> "torch.Tensor":
    return tensor


def _type_of(values: "torch.Tensor", kind: str) -> str:
    """Eight bits come in blocks of 32; rows of another length keep 16."""
    return "F16" if kind == "q8_0" and values.shape[-1] % 32 else kind.upper()


def _paired(name: str, tensor: "torch.Tensor", *, config: Any) -> "torch.Tensor":
    """The rows of a query or key projection in llama.cpp's order: what turns together lies together."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    shape = tensor.shape
    return tensor.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def _rotary_factors(model: Any) -> "torch.Tensor | None":
    """What each plain angle is divided by; None when all are plain."""
    import torch

    own = model.model.rotary_emb.inv_freq.float()
    plain = float(model.config.rope_parameters["rope_theta"]) ** -(torch.arange(len(own)).float() / len(own))
    factors = plain / own
    return None if torch.allclose(factors, torch.ones_like(factors), rtol=1e-4) else factors


def _compared(
    file: Path, wanted: "torch.Tensor", tokens: "torch.Tensor", words: GgufTokenizer, *, kind: str
) -> dict[str, Any]:
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM

    reader = GGUFReader(file)
    if not _has_words(reader, words):
        raise Differs("The tokenizer read back from the GGUF file is not the model's.")
    again = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
    ).eval()
    _turn_by_factors(again, reader)
    differences = (wanted - token_log_probabilities(again, tokens)).abs()
    mean, largest = float(differences.mean()), float(differences.max())
    tolerance = MEAN_TOLERANCE_NATS[kind]
    if not mean <= tolerance:
        raise Differs(f"The GGUF file differs by {mean:.3g} nats per token, {tolerance:g} are tolerated.")
    return {
        "mean_difference_nats": mean,
        "largest_difference_nats": largest,
        "tolerance_nats": tolerance,
        "tokens_compared": tokens.numel() - 1,
    }


def _has_words(reader: "GGUFReader", words: GgufTokenizer) -> bool:
    wanted = {"tokens": words.tokens, "token_type": words.kinds, "merges": words.merges, "pre": words.cut}
    read = {name: reader.fields[f"tokenizer.ggml.{name}"].contents() for name in wanted}
    template = reader.fields.get("tokenizer.chat_template")
    return read == wanted and (template.contents() if template else None) == words.chat_template


def _turn_by_factors(model: Any, reader: "GGUFReader") -> None:
    """Transformers passes over the factors of rotary angles; llama.cpp does not."""
    import torch

    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            model.model.rotary_emb.inv_freq /= torch.from_numpy(tensor.data.copy())


def _refuse(code: ErrorCode, message: str, *, hint: str) -> int:
    print(json.dumps({"code": code, "message": message, "hint": hint}), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
