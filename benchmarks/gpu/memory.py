"""(c) Memory peaks of whole steps beside the planner's: two sizes, three methods, micro-steps, recomputation."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.gpu import shapes
from benchmarks.gpu.setting import OPTIONAL, Setting, free_memory, missing

CASES = (
    ("1b", "full"), ("1b", "lora"), ("8b", "lora"), ("8b, 8 layers", "full"), ("1b", "qlora"), ("8b", "qlora"),
)  # fmt: skip
MODES = ("none", "selective", "mlp", "full")
TOKENS = (2048, 8192)
SECONDS_A_CASE = 12


def run(setting: Setting) -> None:
    """Predicted beside measured; each model is built once."""
    for size, method in CASES:
        problem = _obstacle(method)
        if problem:
            setting.record(size=size, method=method, outcome=f"not here: {problem}")
        elif setting.seconds_left > 3 * SECONDS_A_CASE or setting.tiny:
            setting.tried(partial(_cases, setting, size, method), size=size, method=method, mode="all of these")
        else:
            setting.record(size=size, method=method, outcome="left out: no time left in this piece")
        free_memory(setting.device)


def _cases(setting: Setting, size: str, method: str) -> dict[str, Any]:
    from tunesmith.worker.train.models.model import enable_checkpointing

    config = shapes.config_of(size, tiny=setting.tiny)
    attention = shapes.best_attention(config, device=setting.device)
    learner = shapes.build(config, method=method, device=setting.device, attention=attention)
    masters = shapes.optimizer_of(learner, method=method)
    done = 0
    for tokens, mode in _settings(tiny=setting.tiny):
        enable_checkpointing(learner.causal_model, mode)
        free_memory(setting.device)
        done += setting.tried(
            lambda tokens=tokens, mode=mode: _peak(
                setting, learner, masters, size=size, method=method, tokens=tokens, mode=mode
            ),  # type: ignore[misc]
            needs_seconds=0 if setting.tiny else SECONDS_A_CASE,
            size=size,
            method=method,
            tokens=tokens,
            mode=mode,
            attention=attention,
        )
        masters.clear()
    return {"peaks": done}


def _settings(*, tiny: bool) -> Iterator[tuple[int, str]]:
    for tokens in (64, 128) if tiny else TOKENS:
        for mode in MODES:
            yield tokens, mode


def _peak(
    setting: Setting, learner: Any, masters: Any, *, size: str, method: str, tokens: int, mode: str
) -> dict[str, Any]:
    """Two optimizer steps of one micro-step each: the second has the moments that the first made."""
    from tunesmith.worker.train.kernels.loss import summed_cross_entropy
    from tunesmith.worker.train.recorder import peak_memory_bytes

    import torch  # isort: skip

    shape = shapes.shape_of(size, tiny=setting.tiny)
    rows = shapes.batch([tokens // 2, tokens // 2], vocabulary=shape.vocab_size, device=setting.device)
    losses = []
    for _ in range(2):
        loss = learner(rows, summed_cross_entropy).loss
        masters.backward(loss / tokens, last=True)
        masters.clip(1.0)
        masters.step(learning_rate=shapes.STARTING_RATE)
        losses.append(float(loss) / tokens)
    predicted = _predicted(shape, method, tokens=tokens, mode=mode, device=setting.device)
    measured = peak_memory_bytes(torch.device(setting.device))
    return {
        "predicted_gib": predicted / 2**30,
        "measured_gib": measured / 2**30,
        "ratio": measured / predicted,
        "losses": losses,
    }


def _predicted(shape: Any, method: str, *, tokens: int, mode: str, device: str) -> int:
    """What the allocator hands out, as the canary compares it: without context and slack."""
    from tunesmith.tuning.estimates.measured import visible_peak_bytes
    from tunesmith.tuning.estimates.memory import estimate

    setup = shapes.setup_of(method, device=device, tokens=tokens, checkpointing=mode)
    return int(visible_peak_bytes(estimate(shape, setup, budget_bytes=0), device=setup.device))


def _obstacle(method: str) -> str | None:
    needed = {"full": (), "lora": ("peft",), "qlora": ("peft", "bitsandbytes")}[method]
    absent = [name for name in missing(OPTIONAL) if name in needed]
    return f"needs {' and '.join(absent)}" if absent else None
