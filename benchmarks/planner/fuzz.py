"""Random plans, each held against what every plan promises: `python -m benchmarks.planner.fuzz --plans 50000`.

Prints violations with the case that shows them, and how long a plan took; exits 1 if there is any violation.
"""

import argparse
import json
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.hardware import Cpu, HardwareProfile
from tunesmith.tuning.hardware_facts.gpus import EVERYTHING_INSTALLED, KNOWN_GPUS, what_if
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.catalogue import CONFIGS, find_shape
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.search.candidates import LONGEST_RUN_SECONDS, PRICE_OF_EXACT_MOMENTS, PRICE_OF_WHOLE_COPIES
from tunesmith.tuning.values.units import GIB, duration

ROUNDING = 1 + 1e-9
MODELS = tuple(sorted(CONFIGS))
SHAPES = {name: find_shape(name) for name in MODELS}
PLURAL_OF_ONE = re.compile(r"(?<![\d.,])1 (rows|steps|epochs|GPUs|tokens|evaluations)\b(?!/s)")
LORA_OPTIONS: tuple[dict[str, Any], ...] = (
    {}, {}, {"rank": 64}, {"dropout": 0.05}, {"use_dora": True}, {"init": "pissa"}, {"float8_base": True},
    {"use_rslora": True, "target_modules": "attention"},
)  # fmt: skip
NUMBERS_OF_GPUS = (0, 1, 1, 1, 2, 2, 3, 4, 5, 8, 8, 16)


@dataclass(frozen=True)
class Case:
    """One question to the planner."""

    model: str
    hardware: HardwareProfile
    dataset: DatasetFacts
    asked: dict[str, Any]
    corrections: Corrections

    def __str__(self) -> str:
        free = [f"{gpu.name} {gpu.memory_free_bytes / GIB:.1f}" for gpu in self.hardware.gpus]
        rows = self.dataset.model_dump(exclude={"row_length_counts"})
        return f"{self.model} on {free or 'CPU'}, {json.dumps(rows)}, {json.dumps(self.asked)}, {self.corrections}"


class Fuzz:
    """Counts of violations, with an example of each, and the seconds that plans took."""

    def __init__(self, *, seed: int) -> None:
        self.random = random.Random(seed)
        self.violations: Counter[str] = Counter()
        self.examples: dict[str, Case] = {}
        self.seconds: list[float] = []

    def run(self, plans: int) -> None:
        """Cases, each with its variations, until so many plans have been made."""
        while len(self.seconds) < plans:
            case = self._case()
            for name in self._broken(case):
                self.violations[name] += 1
                self.examples.setdefault(name, case)

    def choose(self, case: Case) -> Plan | Refusal:
        """One plan, timed."""
        start = time.process_time()
        decision = choose(
            spec=JobSpec.model_validate({"model": case.model, "seed": 1} | case.asked),
            shape=SHAPES[case.model],
            dataset=case.dataset,
            hardware=case.hardware,
            corrections=case.corrections,
        )
        self.seconds.append(time.process_time() - start)
        return decision

    def _broken(self, case: Case) -> Iterator[str]:
        plan = self.choose(case)
        if isinstance(plan, Refusal):
            if not plan.reasons:
                yield "a refusal says why"
            return
        yield from _broken_alone(plan, case)
        for name, larger in self._larger(case):
            yield from _broken_on_larger(plan, self.choose(larger), name, goal=case.asked["goal"])
        if case.asked["goal"] == "balanced":
            quick, cheap = (self.choose(_with_goal(case, goal)) for goal in ("speed", "cost"))
            yield from _broken_goals(plan, quick, cheap)

    def _larger(self, case: Case) -> Iterator[tuple[str, Case]]:
        gpus = case.hardware.gpus
        if not gpus:
            return
        more = self.random.choice((0.1, 1.0, 5.0, 20.0))
        richer = []
        for gpu in gpus:
            free = min(gpu.memory_total_bytes, gpu.memory_free_bytes + int(more * GIB))
            richer.append(gpu.model_copy(update={"memory_free_bytes": free}))
        yield "memory", replace(case, hardware=case.hardware.model_copy(update={"gpus": tuple(richer)}))
        another = self.random.choice(gpus).model_copy(update={"index": len(gpus)})
        yield "GPUs", replace(case, hardware=case.hardware.model_copy(update={"gpus": (*gpus, another)}))

    def _case(self) -> Case:
        pick = self.random
        rows = max(1, int(10 ** pick.uniform(0, 6)))
        mean = max(2, int(10 ** pick.uniform(0.7, 3.6)))
        tokens = rows * mean
        dataset = DatasetFacts(
            rows=rows,
            tokens=tokens,
            longest_row_tokens=min(131_072, max(mean, int(mean * pick.uniform(1, 12)))),
            supervised_tokens=max(1, int(tokens * pick.uniform(0.01, 1))),
            tokens_are_exact=pick.random() < 0.5,
            validation_rows=pick.choice((0, min(rows // 10, 200), int(10 ** pick.uniform(0, 4)))),
        )
        asked = {
            "method": pick.choice(("auto", "auto", "auto", "full", "lora", "qlora")),
            "goal": pick.choice(("balanced", "balanced", "quality", "speed", "cost")),
            "objective": pick.choice(("supervised", "supervised", "dpo")),
            "merge": pick.random() < 0.1,
            "lora": pick.choice(LORA_OPTIONS),
            "hyperparameters": pick.choice(
                ({}, {}, {}, {"batch_size": pick.choice((1, 3, 64, 256))}, {"n_epochs": 50})
            ),
            "max_seq_length": pick.choice(("auto", "auto", "auto", 64, 512)),
        }
        corrections = Corrections()
        if pick.random() < 0.2:
            corrections = Corrections(memory=pick.uniform(0.7, 1.5), speed=pick.uniform(0.3, 2.0))
        return Case(pick.choice(MODELS), self._machine(), dataset, asked, corrections)

    def _machine(self) -> HardwareProfile:
        pick = self.random
        number = pick.choice(NUMBERS_OF_GPUS)
        installed = {name: version for name, version in EVERYTHING_INSTALLED.items() if pick.random() < 0.95}
        if not number:
            free = int(pick.uniform(1, 200) * GIB)
            cores = pick.choice((1, 2, 8, 64))
            cpu = Cpu(model="a CPU", cores=cores, memory_total_bytes=free, memory_free_bytes=free, bf16=cores > 2)
            return HardwareProfile(cpu=cpu, installed=installed)
        names = [pick.choice(KNOWN_GPUS).name for _ in range(pick.choice((1, 1, 1, 2)))]
        gpus = []
        is_shared = pick.random() < 0.4
        for index in range(number):
            gpu = what_if(pick.choice(names)).gpus[0]
            free = int(gpu.memory_total_bytes * pick.uniform(0.02, 1)) if is_shared else gpu.memory_total_bytes
            gpus.append(gpu.model_copy(update={"index": index, "memory_free_bytes": free}))
        return what_if("1xT4").model_copy(update={"gpus": tuple(gpus), "installed": installed})


def _with_goal(case: Case, goal: str) -> Case:
    return replace(case, asked=case.asked | {"goal": goal})


def _broken_alone(plan: Plan, case: Case) -> Iterator[str]:
    memory, time = plan.memory, plan.time
    numbers = [time.seconds, time.seconds_low, time.seconds_high, time.tokens_per_second]
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        yield "numbers are finite and positive"
    if not time.seconds_low <= time.seconds <= time.seconds_high:
        yield "a duration lies within its range"
    yield from _broken_limits(plan, case)
    if (time.evaluation_seconds > 0) is not (case.dataset.validation_rows > 0) or time.training_seconds <= 0:
        yield "evaluations take time where there is something to evaluate, and training takes some always"
    if sum(memory.items.values()) != memory.total_bytes:
        yield "items of memory add up"
    yield from _broken_texts(plan, goal=case.asked["goal"])
    if plan.ways is not None:
        if plan.ways.quickest.working_seconds > time.working_seconds * ROUNDING:
            yield "the quickest way is as quick as the plan"
        cheapest = plan.ways.cheapest
        if cheapest.working_seconds * cheapest.world_size > _expense(plan, "cost") * ROUNDING:
            yield "the cheapest way is as cheap as the plan"


def _broken_texts(plan: Plan, *, goal: str) -> Iterator[str]:
    told = [reason.text for reason in plan.reasons] + [change.text for change in plan.changes]
    if any(not text.endswith(".") or "  " in text for text in told):
        yield "reasons are sentences"
    if any(PLURAL_OF_ONE.search(text) for text in told):
        yield "one of anything is singular"
    for change in plan.changes:
        spent = change.way.working_seconds * (change.way.world_size if goal == "cost" else 1)
        whole, whole_before = change.way.seconds, plan.time.seconds
        if goal == "cost":
            whole, whole_before = change.way.device_seconds, whole_before * plan.world_size
        reads_alike = duration(whole) == duration(whole_before)  # as 6.7 and 7.1 s do
        if spent > _expense(plan, goal) * 1.05 and not reads_alike and "though it needs" not in change.text:
            yield "a larger machine that takes longer says so"


def _broken_limits(plan: Plan, case: Case) -> Iterator[str]:
    memory = plan.memory
    if memory.total_bytes > memory.budget_bytes * (0.97 if case.asked["method"] == "auto" else 1):
        yield "no plan fills more than 97 % unless its method was asked for"
    if plan.world_size > max(1, plan.rows_per_step) or plan.world_size > max(1, len(case.hardware.gpus)):
        yield "no more processes than rows a step or GPUs"
    if plan.time.seconds > LONGEST_RUN_SECONDS:
        yield "no plan takes years"
    needs_plain_base = plan.lora is not None and plan.lora.init == "pissa"
    if needs_plain_base and (plan.quantization or plan.zero_stage):
        yield "no plan that the trainer refuses"
    if case.asked["method"] not in ("auto", plan.method):
        yield "the method that was asked for"


def _broken_on_larger(plan: Plan, larger: Plan | Refusal, name: str, *, goal: str) -> Iterator[str]:
    """For goal cost a plan may become slower, never dearer; one that had no margin may, to get one."""
    if isinstance(larger, Refusal):
        yield f"more {name} never turn a plan into a refusal"
        return
    raised_its_batch = plan.rows_per_step > larger.rows_per_step  # because only several GPUs held the model
    if larger.method is not plan.method or not _has_margin(plan) or raised_its_batch:
        return
    exact_again = (plan.optimizer, larger.optimizer) == ("adamw_8bit", "adamw")
    whole_again = plan.lora is not None and _gathers_weights(plan) and not _gathers_weights(larger)
    allowed = PRICE_OF_EXACT_MOMENTS if exact_again else PRICE_OF_WHOLE_COPIES if whole_again else 1.0
    if _expense(larger, goal) > _expense(plan, goal) * allowed * ROUNDING:
        yield f"more {name} never make a plan slower"


def _gathers_weights(plan: Plan) -> bool:
    return plan.sharded_base or plan.zero_stage == 3


def _expense(plan: Plan, goal: str) -> float:
    """Without sample answers: settings that give none are no better for it."""
    return plan.time.working_seconds * (plan.world_size if goal == "cost" else 1)


def _broken_goals(plan: Plan, quick: Plan | Refusal, cheap: Plan | Refusal) -> Iterator[str]:
    if isinstance(quick, Refusal) or isinstance(cheap, Refusal):
        yield "goals change no plan into a refusal"
        return
    if not plan.rows_per_step == quick.rows_per_step == cheap.rows_per_step:
        return  # only more GPUs held the larger adapter of one of them, and each wants a row
    if _expense(quick, "speed") > _expense(plan, "speed") * ROUNDING and _has_margin(quick) == _has_margin(plan):
        yield "goal speed is never slower than balanced"
    if _expense(cheap, "cost") > _expense(plan, "cost") * ROUNDING and _has_margin(cheap) == _has_margin(plan):
        yield "goal cost is never dearer than balanced"


def _has_margin(plan: Plan) -> bool:
    return plan.memory.total_bytes + plan.memory.margin_bytes <= plan.memory.budget_bytes


def report(fuzz: Fuzz) -> str:
    """Violations with an example each, and the time of plans."""
    lines = [f"{count:6}  {name}: {fuzz.examples[name]}" for name, count in fuzz.violations.most_common()]
    took = sorted(seconds * 1e3 for seconds in fuzz.seconds)
    middle, late = took[len(took) // 2], took[int(len(took) * 0.99)]
    lines.append(
        f"{len(took):,} plans, {sum(fuzz.violations.values())} violations; median {middle:.1f} ms, p99 {late:.1f} ms, "
        f"longest {took[-1]:.1f} ms of processor time"
    )
    return "\n".join(lines)


def main() -> int:
    """Run, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    fuzz = Fuzz(seed=options.seed)
    fuzz.run(options.plans)
    print(report(fuzz))
    return 1 if fuzz.violations else 0


if __name__ == "__main__":
    sys.exit(main())
