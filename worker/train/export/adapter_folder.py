"""An adapter's folder looked at as an engine will load it: by its own files alone, base and all.

    python -m tunesmith.worker.train.export.adapter_folder BASE ADAPTER

What the folder answers with the base that it names is compared, bit for bit, with base and adapter put together here.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.train import environment  # noqa: F401 - before torch
from tunesmith.worker.train.export.merge_folders import SAMPLE_TEXT, Differs, token_log_probabilities


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 and one line of JSON, or 1 with one line {"code", "message", "hint"} on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tunesmith.worker.train.export.adapter_folder", description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("adapter", type=Path)
    options = parser.parse_args(arguments)
    try:
        print(json.dumps(compare(options.base, options.adapter)))
    except ImportError as error:
        return _refuse(ErrorCode.MISSING_PACKAGE, f"{error}", hint="Install the worker extra.")
    except Differs as error:
        return _refuse(ErrorCode.EXPORT_DIFFERS, f"{error}", hint="Take --for transformers.")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "Check that the base is the one the adapter was trained on."
        return _refuse(ErrorCode.ADAPTER_OF_ANOTHER_BASE, f"The adapter cannot be loaded: {reason}", hint=hint)
    return 0


def compare(base: Path, adapter: Path) -> dict[str, Any]:
    """How far the adapter moves its base, in nats per token of a sample text.

    Raises:
        Differs: the folder names another base, or its weights change nothing.
    """
    import torch
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(adapter, local_files_only=True)
    tokens = tokenizer(SAMPLE_TEXT, return_tensors="pt")["input_ids"]
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True).eval()
    without = token_log_probabilities(plain, tokens)
    wanted = token_log_probabilities(PeftModel.from_pretrained(plain, adapter, local_files_only=True).eval(), tokens)
    del plain  # before the other is loaded: one of them in memory at a time
    alone = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32, local_files_only=True).eval()
    difference = float((wanted - token_log_probabilities(alone, tokens)).abs().max())
    if difference != 0:
        raise Differs(f"The adapter's folder by itself differs by {difference:.3g} nats from base and adapter.")
    moved = float((wanted - without).abs().mean())
    if moved == 0:
        raise Differs("The adapter's folder changes nothing about its base.")
    return {"largest_difference_nats": difference, "moved_nats": moved, "tokens_compared": tokens.numel() - 1}


def _refuse(code: ErrorCode, message: str, *, hint: str) -> int:
    print(json.dumps({"code": code, "message": message, "hint": hint}), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
