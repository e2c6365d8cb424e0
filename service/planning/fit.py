"""Which machines could take a job, and why not when none can."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.service.database.tables import WorkerNode
from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.messages import FileRef, set_digest
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan, PlanRule, Reason, Refusal
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.planner.disk import refuse_small_disk
from tunesmith.tuning.planner.pinned import replay
from tunesmith.tuning.words import Method


@dataclass(frozen=True)
class Machine:
    """Hardware of a worker as far as a decision needs it."""

    worker_class: str
    hardware: HardwareProfile


@dataclass(frozen=True)
class PlanningQuery:
    """What the planner asks about a job. `corrections` by worker class: what earlier runs of its model measured.

    With a `pinned` plan there is nothing to choose, only whether a machine can run it.
    """

    spec: JobSpec
    dataset: DatasetFacts
    shape: ModelShape
    corrections: Mapping[str, Mapping[Method, Corrections]] = field(default_factory=dict)
    pinned: Plan | None = None
    model_files: tuple[FileRef, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        spec: dict[str, Any],
        dataset: dict[str, Any],
        config: dict[str, Any],
        corrections: Mapping[str, Mapping[Method, Corrections]],
        pinned: dict[str, Any] | None,
        files: Sequence[dict[str, Any]] = (),
    ) -> "PlanningQuery":
        """From the columns of a job and its model."""
        return cls(
            spec=JobSpec.model_validate(spec),
            dataset=DatasetFacts.model_validate(dataset),
            shape=ModelShape.from_config(config),
            corrections=corrections,
            pinned=None if pinned is None else Plan.model_validate(pinned),
            model_files=tuple(FileRef.model_validate(file) for file in files),
        )

    def corrections_on(self, hardware: HardwareProfile) -> Mapping[Method, Corrections]:
        """What was measured on machines of this kind."""
        return self.corrections.get(hardware.worker_class, {})

    def missing_model_bytes(self, hardware: HardwareProfile) -> int:
        """Of the model's own files, what a machine lacks that has said which models it keeps."""
        if hardware.kept_models is None or set_digest(self.model_files) in hardware.kept_models:
            return 0
        return sum(file.bytes for file in self.model_files)


@dataclass(frozen=True)
class MachineFit:
    """The classes that could take the job, and a sentence when there is none."""

    classes: tuple[str, ...]
    reason: str | None


def current(worker: WorkerNode) -> Machine:
    """An idle worker as it is now, a busy one as it is at rest: what its attempt occupies will be free again."""
    facts = worker.hardware if worker.busy_slots else worker.hardware_now
    return Machine(worker.worker_class, HardwareProfile.model_validate(facts))


def emptied(worker: WorkerNode) -> Machine:
    """As it could be at best: all of its memory free, and room on its disk."""
    hardware = HardwareProfile.model_validate(worker.hardware)
    gpus = tuple(gpu.model_copy(update={"memory_free_bytes": gpu.memory_total_bytes}) for gpu in hardware.gpus)
    cpu = hardware.cpu.model_copy(update={"memory_free_bytes": hardware.cpu.memory_total_bytes})
    return Machine(worker.worker_class, hardware.model_copy(update={"gpus": gpus, "cpu": cpu, "disk_free_bytes": 0}))


def find_fit(wanted: PlanningQuery, machines: Iterable[Machine]) -> MachineFit:
    """Ask the planner about each machine, of a class until one takes the job."""
    return fit_of(_decisions(wanted, machines))


def fit_of(decisions: Iterable[tuple[str, Plan | str]]) -> MachineFit:
    """What the decisions about all machines, each with its class, come to."""
    classes: dict[str, None] = {}
    refusals: dict[str, str] = {}
    for worker_class, decision in decisions:
        if isinstance(decision, str):
            refusals[worker_class] = decision
        else:
            classes[worker_class] = None
    if classes:
        return MachineFit(tuple(classes), None)
    if not refusals:
        return MachineFit((), "No worker is connected. The job starts as soon as one is.")
    return MachineFit((), " ".join(f"{worker_class}: {text}" for worker_class, text in sorted(refusals.items())))


def plan_on(wanted: PlanningQuery, hardware: HardwareProfile, *, with_outlook: bool = True) -> Plan | str:
    """The plan for this hardware, or why there is none; who does not show it leaves its outlook out."""
    decision = decide_on(wanted, hardware, with_outlook=with_outlook)
    return decision if isinstance(decision, Plan) else decision.text


def decide_on(wanted: PlanningQuery, hardware: HardwareProfile, *, with_outlook: bool = True) -> Plan | Refusal:
    """The same with every number of a refusal. A plan fits the disk too."""
    decision = _choose(wanted, hardware, with_outlook=with_outlook)
    if isinstance(decision, Refusal):
        return decision
    refusal = refuse_small_disk(
        decision,
        wanted.dataset,
        trains=wanted.spec.evaluation is None,
        model_parameters=wanted.shape.parameters,
        missing_model_bytes=wanted.missing_model_bytes(hardware),
        free_bytes=hardware.disk_free_bytes,
    )
    return refusal or decision


def _decisions(wanted: PlanningQuery, machines: Iterable[Machine]) -> Iterator[tuple[str, Plan | str]]:
    taken: set[str] = set()
    for machine in machines:
        if machine.worker_class in taken:
            continue
        decision = plan_on(wanted, machine.hardware, with_outlook=False)
        if isinstance(decision, Plan):
            taken.add(machine.worker_class)
        yield machine.worker_class, decision


def _choose(wanted: PlanningQuery, hardware: HardwareProfile, *, with_outlook: bool) -> Plan | Refusal:
    if wanted.pinned is not None:
        return replay(wanted.pinned, hardware=hardware)
    try:
        return choose(
            spec=wanted.spec,
            shape=wanted.shape,
            dataset=wanted.dataset,
            hardware=hardware,
            corrections=wanted.corrections_on(hardware),
            with_outlook=with_outlook,
        )
    except InvalidRequest as error:
        return Refusal(reasons=(Reason(rule=PlanRule.IMPOSSIBLE, text=error.message),))
