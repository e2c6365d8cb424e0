"""A plain model folder from a base folder and an adapter folder.

    python -m tunesmith.worker.train.export.merge_folders BASE ADAPTER OUT_DIR

Computed in fp32 and written in the base's own dtype; read back and compared with base and adapter before it is kept.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.train import environment  # noqa: F401 - before torch

if TYPE_CHECKING:
    import torch

MEAN_TOLERANCE_NATS = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.05}  # per token, as for merges after training
SAMPLE_TEXT = (
    "The quick brown fox jumps over the lazy dog, and 17 more of them follow; what would you like to know? " * 4
)


class Differs(Exception):
    """What was merged says something else than base and adapter."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one line of JSON {"code", "message", "hint"} on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tunesmith.worker.train.export.merge_folders", description=__doc__)
    for name in ("base", "adapter", "folder"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args(arguments)
    try:
        print(json.dumps(merge(options.base, options.adapter, options.folder)))
    except ImportError as error:
        return _refuse(ErrorCode.MISSING_PACKAGE, f"{error}", hint="Install the worker extra.")
    except Differs as error:
        return _refuse(ErrorCode.MERGED_MODEL_DIFFERS, f"{error}", hint="Use the adapter, which is unharmed.")
    except (RuntimeError, ValueError, KeyError) as error:  # what PEFT raises for shapes and names that do not fit
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "Check that the base is the one the adapter was trained on."
        return _refuse(ErrorCode.ADAPTER_OF_ANOTHER_BASE, f"The adapter cannot be merged: {reason}", hint=hint)
    except OSError as error:
        return _refuse(
            ErrorCode.TOOL_FAILED, f"The adapter cannot be merged: {error}", hint="Look at disk and folders."
        )
    return 0


def merge(base: Path, adapter: Path, folder: Path) -> dict[str, Any]:
    """Write `folder` with merged weights, tokenizer and chat template; returns what was compared.

    Raises:
        Differs: the mean difference of log-probabilities is over the tolerance of the dtype; nothing is left.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(adapter, local_files_only=True)
    stored = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True).dtype
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    adapted = PeftModel.from_pretrained(plain, adapter, local_files_only=True).eval()
    tokens = tokenizer(SAMPLE_TEXT, return_tensors="pt")["input_ids"]
    wanted = token_log_probabilities(adapted, tokens)
    merged = adapted.merge_and_unload()
    merged.to(stored).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del adapted, merged, plain
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    difference = float((wanted - token_log_probabilities(again, tokens)).abs().mean())
    tolerance = MEAN_TOLERANCE_NATS[str(stored).removeprefix("torch.")]
    if not difference <= tolerance:
        shutil.rmtree(folder)
        raise Differs(f"The merged model differs by {difference:.3g} nats per token, {tolerance:g} are tolerated.")
    return {"mean_difference_nats": difference, "tolerance_nats": tolerance, "tokens_compared": tokens.numel() - 1}


@contextmanager
def computing_in_fp32(model: Any) -> Iterator[None]:
    """What the model says in fp32, with weights that are widened for their own turn alone."""
    kept: dict[Any, Any] = {}

    def widen(module: Any, _inputs: Any) -> None:
        for weight in module.parameters(recurse=False):
            kept[weight], weight.data = weight.data, weight.data.float()

    def narrow(module: Any, _inputs: Any, _output: Any) -> None:
        for weight in module.parameters(recurse=False):
            weight.data = kept.pop(weight)

    hooks = [hook for module in model.modules() for hook in _around(module, widen, narrow)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _around(module: Any, before: Any, after: Any) -> tuple[Any, ...]:
    if not any(True for _ in module.parameters(recurse=False)):
        return ()
    return module.register_forward_pre_hook(before), module.register_forward_hook(after)


def token_log_probabilities(model: Any, tokens: "torch.Tensor") -> "torch.Tensor":
    """Of each token after the first, given those before it."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=tokens).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]


def _refuse(code: ErrorCode, message: str, *, hint: str) -> int:
    print(json.dumps({"code": code, "message": message, "hint": hint}), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
