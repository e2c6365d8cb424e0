"""What each class of live worker would do with a job, and when it could start."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tunesmith.service.database.tables import WorkerNode
from tunesmith.service.planning.fit import PlanningQuery, current, decide_on
from tunesmith.service.planning.forecast import expected_starts
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.plan import Plan, Refusal

_MACHINES_TRIED = 8  # of one class: they differ only in the memory that is free


@dataclass
class WorkerClass:
    """The live workers of one class; those with a free slot come first."""

    name: str
    idle: list[WorkerNode] = field(default_factory=list)
    busy: list[WorkerNode] = field(default_factory=list)

    @property
    def workers(self) -> list[WorkerNode]:
        """All of them."""
        return [*self.idle, *self.busy]


@dataclass(frozen=True)
class Answer:
    """What one class, or one machine that is not here, would do. `starts_in_seconds` is None when it never would."""

    name: str
    workers: int
    idle: int
    hardware: HardwareProfile
    decision: Plan | Refusal
    starts_in_seconds: float | None = None


def classes_of(workers: Sequence[WorkerNode], remaining: Mapping[str, list[float]]) -> list[WorkerClass]:
    """Group workers that still take jobs. `remaining` holds the open attempts of each."""
    found: dict[str, WorkerClass] = {}
    for worker in workers:
        if worker.draining:
            continue
        group = found.setdefault(worker.worker_class, WorkerClass(worker.worker_class))
        (group.idle if len(remaining.get(worker.id, ())) < worker.slots else group.busy).append(worker)
    return list(found.values())


def answers(
    groups: Sequence[WorkerClass],
    wanted: PlanningQuery,
    *,
    remaining: Mapping[str, list[float]],
    ahead: Sequence[PlanningQuery],
    unseen: int,
) -> list[Answer]:
    """Plan on each class, then let the line ahead pass. This is what a claim by such a worker would choose."""
    decided = {group.name: _first_fit(group.workers, wanted) for group in groups}
    slots = {
        group.name: _free_in_seconds(group, remaining, is_for_idle=decided[group.name].is_for_idle(group))
        for group in groups
    }
    hardware = {name: found.hardware for name, found in decided.items()}
    starts = expected_starts(slots, [_durations(other, hardware) for other in ahead], unseen=unseen)
    return [
        Answer(
            name=group.name,
            workers=len(group.workers),
            idle=len(group.idle),
            hardware=decided[group.name].hardware,
            decision=(decision := decided[group.name].decision),
            starts_in_seconds=starts[group.name] if isinstance(decision, Plan) else None,
        )
        for group in groups
    ]


def what_if(name: str, wanted: PlanningQuery, *, machine: Callable[[str], HardwareProfile]) -> Answer:
    """The same on a machine that is not here; it never starts."""
    hardware = machine(name)
    return Answer(name=name, workers=0, idle=0, hardware=hardware, decision=decide_on(wanted, hardware))


def chosen(found: Sequence[Answer]) -> str | None:
    """Of the live classes that fit, the one that starts first; of several, the one that is done first."""
    ready = [
        (answer.starts_in_seconds, answer.decision.time.seconds, answer.name)
        for answer in found
        if isinstance(answer.decision, Plan) and answer.starts_in_seconds is not None
    ]
    return min(ready)[2] if ready else None


@dataclass(frozen=True)
class _Tried:
    worker: WorkerNode
    hardware: HardwareProfile
    decision: Plan | Refusal

    def is_for_idle(self, group: WorkerClass) -> bool:
        return self.worker in group.idle


def _first_fit(workers: Sequence[WorkerNode], wanted: PlanningQuery) -> _Tried:
    """The first worker that fits, or the first of all with its refusal."""
    tried: list[_Tried] = []
    for worker in workers[:_MACHINES_TRIED]:
        hardware = current(worker).hardware
        tried.append(_Tried(worker, hardware, decide_on(wanted, hardware)))
        if isinstance(tried[-1].decision, Plan):
            return tried[-1]
    return tried[0]


def _free_in_seconds(group: WorkerClass, remaining: Mapping[str, list[float]], *, is_for_idle: bool) -> list[float]:
    """When each slot comes free. Free slots do not count where the job fits only a worker that is busy now."""
    busy = [seconds for worker in group.workers for seconds in remaining.get(worker.id, ())]
    idle = sum(worker.slots - len(remaining.get(worker.id, ())) for worker in group.idle)
    return [*([0.0] * idle if is_for_idle or not busy else []), *busy]


def _durations(wanted: PlanningQuery, hardware: Mapping[str, HardwareProfile]) -> dict[str, float]:
    decisions = {name: decide_on(wanted, machine, with_outlook=False) for name, machine in hardware.items()}
    return {name: decision.time.seconds for name, decision in decisions.items() if isinstance(decision, Plan)}
