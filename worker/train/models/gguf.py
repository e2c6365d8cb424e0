"""A bf16 safetensors folder with tokenizer from a GGUF file.

    python -m tunesmith.worker.train.models.gguf FILE.gguf OUT_DIR

Dequantisation runs once, when a model is registered. Needs the `gguf` package; a few tokenizers (Llama 1 and 2 style)
also need `sentencepiece`.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.train import environment  # noqa: F401 - before torch


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one line of JSON {"code", "message", "hint"} on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tunesmith.worker.train.models.gguf", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    if options.folder.exists() and any(options.folder.iterdir()):
        return _refuse(ErrorCode.OUTPUT_NOT_EMPTY, f"{options.folder} is not empty.", hint="Name a new folder.")
    try:
        convert(options.file, options.folder)
    except ImportError as error:
        return _refuse(
            ErrorCode.MISSING_PACKAGE, f"{error}", hint="Install the worker extra, and the package named here."
        )
    except Exception as error:
        shutil.rmtree(options.folder, ignore_errors=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "Check that the file is a whole GGUF of a causal language model that transformers can read."
        return _refuse(ErrorCode.BROKEN_GGUF, f"{options.file.name} cannot be converted: {reason}", hint=hint)
    return 0


def convert(file: Path, folder: Path) -> None:
    """Write `folder` with config, bf16 weights, tokenizer and chat template.

    Raises:
        ValueError: not a GGUF file.
    """
    _check_magic(file)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    source = file.resolve()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.bfloat16, local_files_only=True
    )
    model.hf_quantizer = None  # the weights are plain now; a trace of quantisation would make the folder unloadable
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_magic(file: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError("it does not begin as a GGUF file does")


def _refuse(code: ErrorCode, message: str, *, hint: str) -> int:
    print(json.dumps({"code": code, "message": message, "hint": hint}), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
