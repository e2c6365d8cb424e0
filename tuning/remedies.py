"""What to change when nothing fits: the longest rows that would, as the next step for the user."""

from collections.abc import Callable

from tuning.candidates import Candidate
from tuning.job import JobSpec, Method
from tuning.plan import Reason
from tuning.units import gib

SHORTEST_WORTH_OFFERING = 128


def remedy(
    candidates: dict[Method, Candidate], *, spec: JobSpec, retry: Callable[[JobSpec, Method], Candidate]
) -> Reason:
    """Shorter rows that fit, else how much memory the least demanding way wants."""
    methods = [spec.method] if spec.method != "auto" else [Method.LORA, Method.QLORA]
    length = min(candidate.max_sequence_length for candidate in candidates.values())
    for shorter in _shorter_lengths(length):
        for method in methods:
            found = retry(spec.model_copy(update={"max_seq_length": shorter}), method)
            if found.fits:
                return Reason(
                    rule="what-would-fit",
                    text=f"With max_seq_length {shorter:,} {method} fits: {gib(found.memory.total_bytes)} of "
                    f"{gib(found.memory.budget_bytes)}.",
                )
    possible = [candidates[method] for method in methods if candidates[method].blocked is None]
    if not possible:
        return Reason(rule="what-would-fit", text="Install what is missing on a worker, or choose another method.")
    least = min(possible, key=lambda candidate: candidate.memory.total_bytes)
    devices = "a device" if least.setup.world_size == 1 else f"{least.setup.world_size} devices each"
    return Reason(
        rule="what-would-fit",
        text=f"{least.method} would fit on {devices} with {gib(least.memory.total_bytes)} free; shorter rows do not "
        f"help.",
    )


def _shorter_lengths(length: int) -> list[int]:
    """Powers of two below the length, longest first."""
    largest = 1 << max(0, (length - 1).bit_length() - 1)
    lengths = []
    while largest >= SHORTEST_WORTH_OFFERING:
        lengths.append(largest)
        largest //= 2
    return lengths
