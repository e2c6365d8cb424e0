"""What to change when nothing fits: the longest rows that would, as the next step for the user."""

from collections.abc import Callable

from tuning.candidates import LONGEST_RUN_SECONDS, Candidate
from tuning.job import DatasetFacts, JobSpec, Method
from tuning.lengths import share_within
from tuning.plan import Reason
from tuning.rules import name_of
from tuning.units import gib

SHORTEST_WORTH_OFFERING = 128


def remedy(
    candidates: dict[Method, Candidate],
    *,
    spec: JobSpec,
    dataset: DatasetFacts,
    retry: Callable[[JobSpec, Method], Candidate],
) -> Reason:
    """Shorter rows that fit, else how much memory the least demanding way wants."""
    methods = [spec.method] if spec.method != "auto" else [Method.LORA, Method.QLORA]
    if any(candidate.time.seconds > LONGEST_RUN_SECONDS for candidate in candidates.values() if candidate.blocked):
        text = "Fewer rows or epochs, a smaller model or a faster machine would bring it below a year."
        return Reason(rule="what-would-fit", text=text)
    length = min(candidate.max_sequence_length for candidate in candidates.values())
    for shorter in _shorter_lengths(length):
        for method in methods:
            found = retry(spec.model_copy(update={"max_seq_length": shorter}), method)
            if found.fits:
                return Reason(
                    rule="what-would-fit",
                    text=f"With max_seq_length {shorter:,} {name_of(found)} fits: {gib(found.memory.total_bytes)} of "
                    f"{gib(found.memory.budget_bytes)}.{_kept(dataset, shorter)}",
                )
    possible = [candidates[method] for method in methods if candidates[method].blocked is None]
    if not possible:
        return Reason(rule="what-would-fit", text="Install what is missing on a worker, or choose another method.")
    least = min(possible, key=lambda candidate: candidate.memory.total_bytes)
    devices = "a device" if least.setup.world_size == 1 else f"{least.setup.world_size} devices each"
    wanted = gib(least.memory.total_bytes + least.memory.margin_bytes)
    return Reason(
        rule="what-would-fit",
        text=f"{name_of(least)} would fit on {devices} with {wanted} free; shorter rows do not help.",
    )


def _kept(dataset: DatasetFacts, tokens: int) -> str:
    """How many rows that length leaves whole."""
    share = share_within(dataset.row_length_counts, tokens)
    estimated = "" if dataset.tokens_are_exact else ", as far as their length is known"
    return "" if share is None else f" {share:.1%} of the rows are no longer than that{estimated}."


def _shorter_lengths(length: int) -> list[int]:
    """Powers of two below the length, longest first."""
    largest = 1 << max(0, (length - 1).bit_length() - 1)
    lengths = []
    while largest >= SHORTEST_WORTH_OFFERING:
        lengths.append(largest)
        largest //= 2
    return lengths
