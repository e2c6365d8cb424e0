"""What a run gives up when memory ends, one rung at a time: first the size of micro-steps, then kept activations.

Neither changes the result. The loss is normalised over the global batch, so smaller micro-steps have the same gradient;
what is not kept is computed again, with the same random numbers. Where a run stands on the ladder is part of its
`TrainState`, so a resumed one goes on from there.
"""

import gc
import re
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure, JobFailure
from tunesmith.tuning.values.units import gib
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.failures import is_out_of_memory
from tunesmith.worker.train.models.model import Learner, enable_checkpointing
from tunesmith.worker.train.run import RunContext

MAX_HALVINGS = 4
CHECKPOINTING = ("none", "selective", "mlp", "full")
_ASKED_FOR = re.compile(r"[Tt]ried to allocate ([\d.]+) ?(bytes|[KMGT]iB)")  # as torch words it on CPU and GPU

Done = TypeVar("Done")


class MemoryLadder:
    """Does work again a rung lower, with less memory, until it fits or nothing is left to give up.

    Where it stands is in `progress`: `token_budget`, in tokens per micro-step, and `activation_checkpointing`. In
    `lockstep` the processes of a run wait for one another inside of a micro-step, and nobody can go down.
    """

    def __init__(self, run: RunContext, learner: Learner, *, progress: TrainState, lockstep: bool = False) -> None:
        self._run, self._learner, self._progress, self._lockstep = run, learner, progress, lockstep
        self._longest_row = int(np.max(run.rows.lengths()))
        self._smallest_budget = max(self._longest_row, first_budget(run) >> MAX_HALVINGS)
        progress.token_budget = progress.token_budget or first_budget(run)
        planned = run.plan.activation_checkpointing
        reached = max(planned, progress.activation_checkpointing or planned, key=CHECKPOINTING.index)
        if reached != planned:
            enable_checkpointing(learner.causal_model, reached)
        progress.activation_checkpointing = reached

    def descend_until_it_fits(
        self,
        work: Callable[[], Done],
        *,
        doing: str,
        has_backward: bool,
        meet: Callable[[], None] = lambda: None,
        undo: Callable[[], object] = lambda: None,
    ) -> Done:
        """The result of `work`, which is begun again after each lack of memory, with `undo` before it.

        Processes go down together: all return from here or none, and `work` must not wait for another process. What
        they do together is `meet`, after each try, also one that memory ended: the others would wait for this process.
        Where `work` itself waits, in `lockstep`, nobody goes down, for those that wait cannot be called back.
        `has_backward` says whether `work` keeps activations for a backward pass: without one nothing is saved by
        recomputing them. `doing` completes "Memory ran out" in what people are told.

        Raises:
            JobFailure: `out_of_memory`, with what was given up and what is left to do.
        """
        while True:
            lack = None
            try:
                result = work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._lockstep:
                    raise self._out_of_memory(f"Memory ran out {doing}, and a sharded step cannot be split.") from error
                lack = str(error)  # not the error: its traceback would hold the memory
            meet()
            if not self._run.agree(lack is not None):
                return result
            undo()
            gc.collect()
            if self._run.device.type == "cuda":
                torch.cuda.empty_cache()
            if not (self._halve_micro_steps(doing) or (has_backward and self._keep_less(doing))):
                raise self._exhausted(lack or "", doing=doing)

    def _halve_micro_steps(self, doing: str) -> bool:
        before = self._progress.token_budget
        if before <= self._smallest_budget or not self._learner.packs:  # a row alone cannot be split
            return False
        budget = self._progress.token_budget = max(self._smallest_budget, before // 2)
        self._tell(doing, f"going on with {budget} tokens per micro-step instead of {before}")
        return True

    def _keep_less(self, doing: str) -> bool:
        before = self._progress.activation_checkpointing
        if before == CHECKPOINTING[-1]:
            return False
        mode = self._progress.activation_checkpointing = CHECKPOINTING[CHECKPOINTING.index(before) + 1]
        enable_checkpointing(self._learner.causal_model, mode)
        self._tell(doing, f"going on with {mode} activation checkpointing instead of {before}")
        return True

    def _tell(self, doing: str, change: str) -> None:
        self._run.recorder.event(
            f"Memory ran out {doing}; {change}, which changes the speed but not the result.",
            level="warn",
            step=self._progress.step,
            tokens_per_micro_step=self._progress.token_budget,
            activation_checkpointing=self._progress.activation_checkpointing,
        )

    def _exhausted(self, lack: str, *, doing: str) -> JobFailure:
        memory, progress = self._run.plan.memory, self._progress
        asked = _ASKED_FOR.search(lack)
        wanted = f" The last request was for {asked[1]} {asked[2]}." if asked else ""
        return self._out_of_memory(
            f"Memory ran out {doing} with everything given up that could be: {progress.token_budget} tokens "
            f"per micro-step (the longest row has {self._longest_row}), {progress.activation_checkpointing} "
            f"activation checkpointing.{wanted} The plan predicted {gib(memory.total_bytes)} of "
            f"{gib(memory.budget_bytes)} free."
        )

    def _out_of_memory(self, message: str) -> JobFailure:
        return JobFailure(
            Failure(
                code=ErrorCode.OUT_OF_MEMORY,
                message=message,
                param="tunesmith.max_seq_length",
                category=Category.OUT_OF_MEMORY,
                retryable=True,
                hint=_way_out(self._run, longest_row=self._longest_row),
            )
        )


def first_budget(run: RunContext) -> int:
    """Tokens per micro-step as planned; a preference pair brings two sequences."""
    return run.plan.tokens_per_micro_step * run.rows.sequences_per_row


def _way_out(run: RunContext, *, longest_row: int) -> str:
    if run.request.spec.evaluation is not None:
        return "Use a device with more free memory, or leave out the longest rows."
    smaller = {"full": "method lora, ", "lora": "method qlora or a lower rank, ", "qlora": "a lower rank, "}
    return (
        f"Lower max_seq_length below the {longest_row} tokens of the longest row, choose {smaller[run.plan.method]}"
        "or use a device with more free memory."
    )
