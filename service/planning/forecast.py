"""When a new job would start: the line ahead of it, handed out to slots as they come free."""

import heapq
from collections.abc import Iterable, Mapping, Sequence


def expected_starts(
    slots: Mapping[str, Sequence[float]], ahead: Iterable[Mapping[str, float]], *, unseen: int = 0
) -> dict[str, float]:
    """Seconds until a slot of each class is free for the job.

    Args:
        slots: by class, in how many seconds each of its slots comes free; 0 for an idle one. No class is empty.
        ahead: the jobs ahead in line, each with its duration on every class that it fits. Each starts where it can
            start first, as late binding has it.
        unseen: jobs still further ahead, taken to be like the ones in `ahead`.
    """
    free = {worker_class: sorted(seconds) for worker_class, seconds in slots.items()}
    looked_at = list(ahead)
    for job in looked_at:
        _hand_out(free, job)
    for index in range(unseen if looked_at else 0):
        _hand_out(free, looked_at[index % len(looked_at)])
    return {worker_class: seconds[0] for worker_class, seconds in free.items()}


def _hand_out(free: dict[str, list[float]], job: Mapping[str, float]) -> None:
    fitting = [worker_class for worker_class in free if worker_class in job]
    if not fitting:
        return
    first = min(fitting, key=lambda worker_class: (free[worker_class][0], job[worker_class]))
    heapq.heapreplace(free[first], free[first][0] + job[first])
