"""What a model turns out to be when it is tried on three short rows, before anything is trained: assumed nothing.

Packing: a row must come out of a packed batch as it comes out alone, and must not move when another row or a later
token changes. Families that pass nothing on to attention, that carry a state from row to row (recurrent and
convolution layers), or that build their own masks fail this and train one row after another with their own attention,
which is slower and right. A model whose rows see later tokens even alone is no causal language model and is refused.

Head: our product of hidden states and output weights must give the logits that the model gives itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import JobFailure
from tunesmith.tuning.models.packing import (
    NO_GRADIENT,
    NOT_SUPPORTED_HINT,
    SEES_LATER_TOKENS,
    UNKNOWN_HEAD,
    OwnAttention,
    not_supported,
)
from tunesmith.worker.train.attention.segments import Segments
from tunesmith.worker.train.data.packing import PackedBatch
from tunesmith.worker.train.failures import is_out_of_memory, user_error
from tunesmith.worker.train.kernels.loss import Head, logits_of, token_log_probabilities
from tunesmith.worker.train.models.model import Learner

LENGTHS = (9, 13, 7)
AS_PLANNED = "as planned"
# Largest relative movement of a token's state that rounding explains, and its difference from the same token alone,
# for which another kernel adds up in another order. A mixture of experts may send single tokens elsewhere.
MOVEMENT = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.01}
DIFFERENCE = {torch.float32: 2e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
TOKENS_THAT_MAY_DIFFER = 1

Rows = list[torch.Tensor]


@dataclass(frozen=True)
class Trial:
    """What came of it.

    packs: whether rows may share a pass; else `attention` is the model's own to use and `reason` says why.
    idle: names of parameters that are to learn and get no gradient from any token.
    """

    packs: bool
    attention: OwnAttention | None = None
    reason: str | None = None
    idle: tuple[str, ...] = ()


def try_model(
    learner: Learner, *, device: torch.device, vocabulary: int, together: bool = True, learns: bool = True
) -> Trial:
    """Try a model with the passes and kernels that it will train with. No backward pass is run.

    Unless rows may go `together`, only its own attention is tried; of a model that does not learn, no gradient is.

    Draws no random number of the run's and leaves the learner packing. Call it in every process of a sharded run, and
    not through what wraps the learner there, which would take each pass for one of training.

    Raises:
        JobFailure: `model_not_supported` for a model whose rows see later tokens even alone, or with an unknown head;
            `model_gives_no_numbers`.
    """
    rows = _rows(vocabulary, device)
    was_training = learner.training
    learner.eval()
    try:
        trial = _try_packing(learner, rows, together=together)
        _check_head(learner, rows[0])
        return _try_learning(learner, rows, trial) if learns else trial
    finally:
        learner.pack()
        learner.train(was_training)


@torch.no_grad()
def _try_packing(learner: Learner, rows: Rows, *, together: bool) -> Trial:
    alone = _alone(learner, rows, "eager")
    _require_numbers(alone)
    problem = _packing_problem(learner, rows, alone) if together else AS_PLANNED
    return Trial(packs=True) if problem is None else _own_attention(learner, rows, alone, reason=problem)


def _require_numbers(states: Rows) -> None:
    if all(bool(state.isfinite().all()) for state in states):
        return
    precision = str(states[0].dtype).removeprefix("torch.")
    raise user_error(
        ErrorCode.MODEL_GIVES_NO_NUMBERS,
        f"The base model gives no finite numbers for a short row of random tokens, computed in {precision}.",
        hint="Its weights or config.json may be damaged: register it again. In float16 a model that was made for "
        "bfloat16 may overflow: let it train where there is bfloat16.",
        param="model",
    )


def _packing_problem(learner: Learner, rows: Rows, alone: Rows) -> str | None:
    first, second, third = rows
    learner.pack()
    try:
        packed = _states(learner, rows)
        later_changed = _states(learner, [first, second, _with_other_token(third, -1)])
        first_changed = _states(learner, [_with_other_token(first, 0), second, third])
    except Exception as error:  # whatever a class says that does not know packed rows
        if is_out_of_memory(error):
            raise
        return f"it does not take packed rows ({_first_line(error)})"
    if _differ([*later_changed[:2], later_changed[2][:-1]], [*packed[:2], packed[2][:-1]], MOVEMENT):
        return "a packed row changes with what comes after it"
    if _differ(first_changed[1:], packed[1:], MOVEMENT):
        return "a packed row changes with the rows before it"
    if _differ(packed, alone, DIFFERENCE):
        return "a packed row differs from the same row alone"
    return None


def _own_attention(learner: Learner, rows: Rows, alone: Rows, *, reason: str) -> Trial:
    """PyTorch's attention if the model says the same with it, else the one written out in its class."""
    *others, last = rows
    changed = _alone(learner, [*others, _with_other_token(last, -1)], "eager")
    if _differ([changed[-1][:-1]], [alone[-1][:-1]], MOVEMENT):
        raise _not_supported(SEES_LATER_TOKENS)
    try:
        is_same = not _differ(_alone(learner, rows, "sdpa"), alone, DIFFERENCE)
    except Exception as error:  # whatever a class says that has no such attention
        if is_out_of_memory(error):
            raise
        is_same = False
    return Trial(packs=False, attention="sdpa" if is_same else "eager", reason=reason)


@torch.no_grad()
def _check_head(learner: Learner, row: torch.Tensor) -> None:
    learner.attend_alone("eager")
    ours = learner(_batch([row]), _logits)
    theirs = learner.causal_model(input_ids=row[None], use_cache=False).logits[0]
    if theirs.shape != ours.shape or _differ([ours], [theirs], MOVEMENT):
        raise _not_supported(UNKNOWN_HEAD)


def _try_learning(learner: Learner, rows: Rows, trial: Trial) -> Trial:
    """A weight that learns from rows alone must learn from packed rows too; one that learns from neither is idle."""
    idle_alone = _idle(learner, rows, trial.attention or "eager")
    if trial.packs and _idle(learner, rows, None) != idle_alone:
        with torch.no_grad():
            alone = _alone(learner, rows, "eager")
            trial = _own_attention(learner, rows, alone, reason="a weight that learns from rows alone does not packed")
    return replace(trial, idle=idle_alone)


def _idle(learner: Learner, rows: Rows, attention: OwnAttention | None) -> tuple[str, ...]:
    """Trainable parameters that the loss does not depend on."""
    if attention is None:
        learner.pack()
    else:
        learner.attend_alone(attention)
    loss = learner(_batch(rows), token_log_probabilities).sum()
    if not loss.requires_grad:
        raise _not_supported(NO_GRADIENT)
    learning = _leaves(loss)
    return tuple(name for name, value in learner.trainable() if value not in learning)


def _leaves(loss: torch.Tensor) -> set[torch.Tensor]:
    """Parameters at the ends of the graph. Gradients would tell the same and need as much memory as the weights."""
    found: set[torch.Tensor] = set()
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (parameter := getattr(node, "variable", None)) is not None:
            found.add(parameter)
        waiting += [following for following, _ in node.next_functions]
    return found


def _differ(
    rows: Sequence[torch.Tensor], references: Sequence[torch.Tensor], tolerance: dict[torch.dtype, float]
) -> bool:
    """Whether states [tokens, size] differ by more than rounding in more tokens than may."""
    now, before = torch.cat(list(rows)), torch.cat(list(references))
    change = (now.float() - before.float()).norm(dim=-1) / before.float().norm(dim=-1).clamp_min(1e-6)
    is_other = ~(change <= tolerance[now.dtype])  # a NaN is another one too
    allowed = 0 if now.dtype == torch.float32 else TOKENS_THAT_MAY_DIFFER
    return int(is_other.sum()) > allowed


def _alone(learner: Learner, rows: Rows, attention: OwnAttention) -> Rows:
    learner.attend_alone(attention)
    return _states(learner, rows)


def _states(learner: Learner, rows: Rows) -> Rows:
    """Hidden states [tokens, hidden size] of each row."""
    states: torch.Tensor = learner(_batch(rows), _hidden)
    return list(states.split([len(row) for row in rows]))


def _hidden(hidden: torch.Tensor, _labels: torch.Tensor, _head: Head) -> torch.Tensor:
    return hidden


def _logits(hidden: torch.Tensor, _labels: torch.Tensor, head: Head) -> torch.Tensor:
    return logits_of(hidden, head)


def _batch(rows: Rows) -> PackedBatch:
    """All rows in one batch, with every token a target."""
    lengths = [len(row) for row in rows]
    tokens = torch.cat(rows)
    places = torch.arange(len(tokens), device=tokens.device)
    return PackedBatch(
        input_ids=tokens[None],
        position_ids=torch.cat([places[:length] for length in lengths])[None],
        target_positions=places,
        labels=tokens,
        target_sequences=torch.zeros_like(tokens),
        segments=Segments.of(lengths, device=tokens.device),
        rows=(),
    )


def _rows(vocabulary: int, device: torch.device) -> Rows:
    generator = torch.Generator().manual_seed(0)  # of its own: the run's random numbers must not depend on this
    low = min(3, vocabulary - 1)
    return [torch.randint(low, vocabulary, (length,), generator=generator).to(device) for length in LENGTHS]


def _with_other_token(row: torch.Tensor, place: int) -> torch.Tensor:
    """The row with one token replaced by another one of it."""
    changed = row.clone()
    changed[place] = row[1] if row[place] != row[1] else row[2]
    return changed


def _not_supported(problem: str) -> JobFailure:
    return user_error(
        ErrorCode.MODEL_NOT_SUPPORTED,
        not_supported(problem),
        hint=f"Choose a decoder-only model. {NOT_SUPPORTED_HINT}",
        param="model",
    )


def _first_line(error: Exception) -> str:
    text = error.failure.message if isinstance(error, JobFailure) else str(error).strip()
    return (text or type(error).__name__).splitlines()[0][:160]
