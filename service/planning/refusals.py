"""What machines have refused, remembered for as long as nothing has changed that the answer depends on.

A machine is taken with a little more free memory than it has, because that differs at each look: who refuses a job
with more refuses it with less. Nothing here ever stands for a plan, which is made on the machine as it is.
"""

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tunesmith.service.planning.fit import PlanningQuery, plan_on
from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.tuning.words import Method

_MEMORY_STEPS = 64  # into which all memory is divided when free memory is rounded up
_REMEMBERED = 20_000  # answers, of a few hundred bytes
_PER_RUN = ("seed", "template_date")  # what differs between jobs that are alike to the planner


@dataclass(frozen=True)
class MachineKind:
    """A machine as it is, and the roomier one that stands for it and for others like it."""

    hardware: HardwareProfile
    roomier: HardwareProfile
    sha256: str

    @classmethod
    def of(cls, hardware: HardwareProfile) -> "MachineKind":
        """The machine at this moment."""
        rounded = roomier(hardware)
        return cls(hardware, rounded, sha256_of_text(rounded.model_dump_json()))


class Question(NamedTuple):
    """What the planner's answer depends on: the job, the model with what was measured of it, and the machine."""

    job_sha256: str
    model_sha256: str
    machine_sha256: str


class Refusals:
    """The newest answers. `ask` may be called in another thread."""

    def __init__(self, *, at_most: int = _REMEMBERED) -> None:
        self._at_most = at_most
        self._texts: OrderedDict[Question, str | None] = OrderedDict()  # None: the roomier machine takes it

    def find(self, question: Question) -> str | None:
        """Why the machine refuses, if that is known."""
        return self._texts.get(question)

    def ask(self, question: Question, wanted: PlanningQuery, machine: MachineKind) -> Plan | str:
        """The plan for the machine as it is, or why there is none."""
        if question not in self._texts:
            decision = plan_on(wanted, machine.roomier, with_outlook=False)
            self._remember(question, decision if isinstance(decision, str) else None)
        return self.find(question) or plan_on(wanted, machine.hardware)

    def _remember(self, question: Question, text: str | None) -> None:
        self._texts[question] = text
        while len(self._texts) > self._at_most:
            self._texts.popitem(last=False)


def question_sha256(spec: Mapping[str, Any], dataset: Mapping[str, Any], *, repeats: str | None) -> str:
    """The same for jobs that the planner cannot tell apart. `repeats` names the job whose plan must be kept."""
    lasting = {name: value for name, value in spec.items() if name not in _PER_RUN}
    return _digest({"spec": lasting, "dataset": dataset, "repeats": repeats})


def model_sha256(config: Mapping[str, Any], corrections: Mapping[Method, Corrections]) -> str:
    """The same for models of one shape of which the same was measured on the machine."""
    return _digest({"config": config, "corrections": repr(sorted(corrections.items()))})


def roomier(hardware: HardwareProfile) -> HardwareProfile:
    """The same machine with its free memory rounded up, and without what its disk has, which is asked about anew."""
    gpus = tuple(
        gpu.model_copy(update={"memory_free_bytes": _up(gpu.memory_free_bytes, total_bytes=gpu.memory_total_bytes)})
        for gpu in hardware.gpus
    )
    free_bytes = _up(hardware.cpu.memory_free_bytes, total_bytes=hardware.cpu.memory_total_bytes)
    cpu = hardware.cpu.model_copy(update={"memory_free_bytes": free_bytes})
    return hardware.model_copy(update={"gpus": gpus, "cpu": cpu, "disk_free_bytes": 0, "kept_models": None})


def _digest(parts: dict[str, object]) -> str:
    return sha256_of_text(json.dumps(parts, sort_keys=True, separators=(",", ":")))


def _up(free_bytes: int, *, total_bytes: int) -> int:
    step_bytes = max(total_bytes // _MEMORY_STEPS, 1)
    return max(free_bytes, min(math.ceil(free_bytes / step_bytes) * step_bytes, total_bytes))
