"""What runs of this worker have shown about memory, for later ones under the same settings on the same base.

Kept in the memory of one pool process: a restart of the worker, and with it any other version, driver or device, begins
with nothing.
"""

from tunesmith.tuning.messages import CanaryReport
from tunesmith.tuning.planner.rehearsal import Rehearsal, settings_of
from tunesmith.worker.run_directory import TrainRequest, TrainResult

MOST = 256


class Rehearsals:
    """By base model and settings, the newest of each."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], Rehearsal] = {}

    def find(self, request: TrainRequest) -> Rehearsal | None:
        """What equal runs showed."""
        return self._known.get(_key(request))

    def remember(self, request: TrainRequest, result: TrainResult, canary: CanaryReport | None) -> None:
        """Learn from a run that succeeded, unless it had to shrink to fit.

        One without a canary was no larger than the rehearsal it went by, which it confirms or makes more careful.
        """
        earlier, peak = self._known.pop(_key(request), None), result.peak_memory_bytes
        if peak is None or _has_shrunk(request, result):
            return
        if canary is not None:
            tokens, longest = canary.tokens, canary.longest_row_tokens
            peak = max(peak, canary.peak_memory_bytes)
            learned = Rehearsal(tokens=tokens, longest_row_tokens=longest, peak_memory_bytes=peak, packs=result.packs)
        elif earlier is not None:
            learned = earlier.model_copy(update={"peak_memory_bytes": max(peak, earlier.peak_memory_bytes)})
        else:
            return
        while len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[_key(request)] = learned


def _key(request: TrainRequest) -> tuple[str, str, str]:
    return request.model_dir, request.adapter_dir or "", settings_of(request.plan)


def _has_shrunk(request: TrainRequest, result: TrainResult) -> bool:
    planned = request.plan
    tokens = result.tokens_per_micro_step or planned.tokens_per_micro_step
    checkpointing = result.activation_checkpointing or planned.activation_checkpointing
    return tokens < planned.tokens_per_micro_step or checkpointing != planned.activation_checkpointing
