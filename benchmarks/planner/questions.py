"""The 51 questions of a review, asked again: `python -m benchmarks.planner.questions --page docs/planner-questions.md`.

Each has what the planner answered then, what the reviewer thought of it, and what it answers now.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith.tuning.hardware import Cpu, Gpu, HardwareProfile
from tunesmith.tuning.hardware_facts.gpus import EVERYTHING_INSTALLED, what_if
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.values.units import GIB, duration

BEGIN, END = "<!-- questions -->", "<!-- end of questions -->"
GEMMA_3_27B = {
    "model_type": "gemma3_text",
    "hidden_size": 5376,
    "num_hidden_layers": 62,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "head_dim": 128,
    "intermediate_size": 21504,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}
OWN_SHAPES = {"gemma-3-27b": ModelShape.from_config(GEMMA_3_27B)}


@dataclass(frozen=True)
class Question:
    """`verdict` on what was answered then: agreed, doubtful or wrong. `remark` says what the change is due to."""

    text: str
    model: str
    machine: str | HardwareProfile
    then: str
    verdict: Literal["agreed", "doubtful", "wrong"]
    rows: int = 2_000
    tokens: int = 500
    longest: int = 2_000
    learned: float = 0.5
    asked: dict[str, Any] = field(default_factory=dict)
    remark: str = ""

    def answer(self) -> Plan | Refusal:
        """What the planner says now."""
        shape = OWN_SHAPES.get(self.model) or find_shape(self.model)
        tokens = self.rows * self.tokens
        dataset = DatasetFacts(
            rows=self.rows,
            tokens=tokens,
            longest_row_tokens=max(self.tokens, self.longest),
            supervised_tokens=max(1, int(tokens * self.learned)),
            tokens_are_exact=True,
        )
        spec = JobSpec.model_validate({"model": self.model, "seed": 1} | self.asked)
        machine = what_if(self.machine) if isinstance(self.machine, str) else self.machine
        return choose(spec=spec, shape=shape, dataset=dataset, hardware=machine)


def in_short(decision: Plan | Refusal) -> str:
    """`LoRA on 2, ZeRO-3, MLPs recomputed, 20.6 of 24.0 GiB, 3.0 h`."""
    if isinstance(decision, Refusal):
        return f"refused: {decision.reasons[-1].text.rstrip('.')}"
    words = [{"full": "full", "lora": "LoRA", "qlora": "QLoRA"}[decision.method]]
    if decision.world_size > 1:
        words[0] += f" on {decision.world_size}"
    if decision.zero_stage and decision.world_size > 1:
        words.append(f"ZeRO-{decision.zero_stage}")
    if decision.offload_optimizer:
        words.append("optimizer in host memory")
    if decision.optimizer == "adamw_8bit":
        words.append("8-bit moments")
    if decision.activation_checkpointing != "none":
        words.append(f"recomputes {decision.activation_checkpointing}")
    words.append(f"T {decision.tokens_per_micro_step:,}")
    words.append(f"{decision.memory.total_bytes / GIB:.1f} of {decision.memory.budget_bytes / GIB:.1f} GiB")
    words.append(duration(decision.time.seconds))
    return ", ".join(words)


def table() -> str:
    """All questions, in Markdown."""
    lines = ["| question | answer at the review | reviewer | now | why it changed |", "|---|---|---|---|---|"]
    for question in QUESTIONS:
        now = in_short(question.answer())
        lines.append(f"| {question.text} | {question.then} | {question.verdict} | {now} | {question.remark} |")
    return "\n".join(lines)


def write(page: Path) -> None:
    """Put the tables between their marks."""
    from benchmarks.planner import further_questions as further

    text = page.read_text(encoding="utf-8")
    for begin, end, made in ((BEGIN, END, table), (further.BEGIN, further.END, further.table)):
        before, found, rest = text.partition(begin)
        if found:
            text = f"{before}{begin}\n{made()}\n{end}{rest.partition(end)[2]}"
    page.write_text(text, encoding="utf-8")


def _with_free(machine: str, *free_gib: float) -> HardwareProfile:
    """GPUs of one kind, each with so many GiB free."""
    whole = what_if(f"{len(free_gib)}x{machine}")
    gpus = tuple(
        gpu.model_copy(update={"memory_free_bytes": min(gpu.memory_total_bytes, int(free * GIB))})
        for gpu, free in zip(whole.gpus, free_gib, strict=True)
    )
    return whole.model_copy(update={"gpus": gpus})


def _mixed(*names: str) -> HardwareProfile:
    gpus = (what_if(name).gpus[0].model_copy(update={"index": index}) for index, name in enumerate(names))
    return what_if("T4").model_copy(update={"gpus": tuple(gpus)})


def _slices(name: str, *, memory_gib: float, capability: tuple[int, int], number: int = 1) -> HardwareProfile:
    memory = int(memory_gib * GIB)
    gpus = tuple(
        Gpu(
            index=index,
            name=name,
            memory_total_bytes=memory,
            memory_free_bytes=memory,
            compute_capability=capability,
            mig=True,
        )
        for index in range(number)
    )
    return what_if("T4").model_copy(update={"gpus": gpus})


def _small_card(memory_gib: float) -> HardwareProfile:
    """An Ada card of a laptop with so much memory."""
    memory = int(memory_gib * GIB)
    gpu = what_if("RTX4080").gpus[0].model_copy(update={"memory_total_bytes": memory, "memory_free_bytes": memory})
    return what_if("T4").model_copy(update={"gpus": (gpu,)})


EIGHT_CORES = HardwareProfile(
    cpu=Cpu(model="8 cores", cores=8, memory_total_bytes=64 * GIB, memory_free_bytes=60 * GIB),
    installed=EVERYTHING_INSTALLED,
)
MARGIN = "a margin is kept"
ALL = "all layouts are priced"
INFORMATION = "tokens to learn from decide"
SLICE = "slices are never joined; their rate goes by their name"

QUESTIONS: tuple[Question, ...] = (
    Question("7B on T4", "llama-2-7b", "T4", "QLoRA, recomputes full, T 8,192, 12.7/15", "agreed"),
    Question("8B on L4", "llama-3.1-8b", "L4", "LoRA, recomputes full, 21.0/22.5", "agreed", remark=MARGIN),
    Question("8B on 3090, 300 rows", "llama-3.1-8b", "RTX3090", "LoRA, 24.0/24.0", "doubtful", rows=300, remark=MARGIN),
    Question("70B on 4xA100-80", "llama-3.1-70b", "4xA100-80G", "LoRA, ZeRO-3, 73.5/80", "agreed", remark=ALL),
    Question(
        "70B on 8xH100, full asked",
        "llama-3.1-70b",
        "8xH100",
        "refused, 183.8 GiB",
        "agreed",
        asked={"method": "full"},
    ),
    Question("70B on 8xH100, 60k rows", "llama-3.1-70b", "8xH100", "LoRA, ZeRO-3", "agreed", rows=60_000),
    Question(
        "13B on 2x4090, 8k rows",
        "llama-2-13b",
        "2xRTX4090",
        "LoRA, ZeRO-3 over PCIe, 3.2 h",
        "wrong",
        rows=8_000,
        remark="weights are not shared out over PCI Express where 4 bits are quicker",
    ),
    Question(
        "13B on 2x4090, 60k rows",
        "llama-2-13b",
        "2xRTX4090",
        "LoRA, ZeRO-3, 16.3 h",
        "wrong",
        rows=60_000,
        remark="the same",
    ),
    Question("3B on an 8 GB laptop", "llama-3.2-3b", _small_card(7.4), "QLoRA, 6.0/7.4", "agreed"),
    Question("32B on A100-40", "qwen2.5-32b", "A100-40G", "QLoRA, T 16,384, 39.2/40", "doubtful", remark=MARGIN),
    Question("405B on 8xH100", "llama-3.1-405b", "8xH100", "refused, 123.3 GiB each", "doubtful"),
    Question("1B on 8 CPU cores", "llama-3.2-1b", EIGHT_CORES, "LoRA, fp32", "agreed"),
    Question(
        "MoE 30B-A3B on 4090",
        "qwen3-30b-a3b",
        "RTX4090",
        "refused, 59.3 GiB",
        "doubtful",
    ),
    Question(
        "MoE 30B-A3B on A100-80",
        "qwen3-30b-a3b",
        "A100-80G",
        "LoRA on attention alone",
        "doubtful",
        remark="it says that the experts do not learn",
    ),
    Question(
        "8B, one row of 32k tokens, 24 GB",
        "llama-3.1-8b",
        "RTX4090",
        "QLoRA, recomputes full, 23.8/24.0",
        "doubtful",
        longest=32_000,
        remark=MARGIN,
    ),
    Question(
        "8B, rows up to 128k tokens, H100",
        "llama-3.1-8b",
        "H100",
        "QLoRA, 74.3/80",
        "doubtful",
        tokens=20_000,
        longest=128_000,
    ),
    Question(
        "8B on a 4090 beside two 3090s",
        "llama-3.1-8b",
        _mixed("RTX4090", "RTX3090", "RTX3090"),
        "the 4090",
        "doubtful",
        remark=f"{ALL}, of both kinds",
    ),
    Question("7B on 6 GB", "llama-2-7b", _small_card(6), "refused, names max_seq_length 256", "agreed"),
    Question("1.5B on 6 GB", "qwen2.5-1.5b", _small_card(6), "LoRA, 5.1/5.6", "agreed"),
    Question("1B on T4", "llama-3.2-1b", "T4", "LoRA, fp16", "agreed"),
    Question(
        "8B on a slice, A100 3g.40gb",
        "llama-3.1-8b",
        _slices("NVIDIA A100-SXM4-80GB MIG 3g.40gb", memory_gib=39.5, capability=(8, 0)),
        "LoRA at a whole A100's speed",
        "wrong",
        remark=SLICE,
    ),
    Question(
        "3B on a slice, H100 1g.10gb",
        "llama-3.2-3b",
        _slices("NVIDIA H100 80GB HBM3 MIG 1g.10gb", memory_gib=9.8, capability=(9, 0)),
        "LoRA, 7 times too fast",
        "wrong",
        remark=SLICE,
    ),
    Question(
        "8B on two slices, A100 3g.40gb",
        "llama-3.1-8b",
        _slices("NVIDIA A100-SXM4-80GB MIG 3g.40gb", memory_gib=39.5, capability=(8, 0), number=2),
        "data parallel over both",
        "wrong",
        remark=SLICE,
    ),
    Question(
        "8B on 8xA100, 3 of them busy",
        "llama-3.1-8b",
        _with_free("A100-80G", *[80.0] * 5, *[3.0] * 3),
        "LoRA on 5, without a reason",
        "agreed",
        remark="the number of GPUs has a reason",
    ),
    Question("8B on A100 with 30 GiB free", "llama-3.1-8b", _with_free("A100-80G", 30), "LoRA, T 2,048", "agreed"),
    Question("8B on A100, 100 rows", "llama-3.1-8b", "A100-80G", "LoRA, rank 8", "agreed", rows=100),
    Question(
        "8B on 8xA100, 1M rows",
        "llama-3.1-8b",
        "8xA100-80G",
        "full, ZeRO-1, recomputes full, T 2,048, 79.3/80, 8.77 h",
        "wrong",
        rows=1_000_000,
        remark=ALL,
    ),
    Question("8B on A100, 1M rows", "llama-3.1-8b", "A100-80G", "LoRA, rank 128", "agreed", rows=1_000_000),
    Question(
        "8B on H100, goal quality, 6k rows",
        "llama-3.1-8b",
        "H100",
        "LoRA, full only with its optimizer in host memory",
        "agreed",
        rows=6_000,
        asked={"goal": "quality"},
    ),
    Question(
        "8B on H100, goal quality, 4k rows",
        "llama-3.1-8b",
        "H100",
        "LoRA",
        "agreed",
        rows=4_000,
        asked={"goal": "quality"},
    ),
    Question("8B on 8xH100, goal speed", "llama-3.1-8b", "8xH100", "LoRA on 8", "agreed", asked={"goal": "speed"}),
    Question("8B on 8xH100, goal cost", "llama-3.1-8b", "8xH100", "LoRA on 1", "agreed", asked={"goal": "cost"}),
    Question("8B on 4090, goal speed", "llama-3.1-8b", "RTX4090", "QLoRA", "agreed", asked={"goal": "speed"}),
    Question("70B on 2x4090", "llama-3.1-70b", "2xRTX4090", "refused", "wrong"),
    Question("70B on A6000", "llama-3.1-70b", "A6000", "QLoRA, 46.2/48", "agreed", remark=MARGIN),
    Question("70B on H100", "llama-3.1-70b", "H100", "QLoRA", "agreed"),
    Question(
        "70B on 2xH100",
        "llama-3.1-70b",
        "2xH100",
        "LoRA, ZeRO-3, 77.8/80, 48 min (QLoRA 30 min)",
        "wrong",
        remark=MARGIN,
    ),
    Question("0.5B on 4090, 20k rows", "qwen2.5-0.5b", "RTX4090", "LoRA, rank 64", "agreed", rows=20_000),
    Question("135M on 3080", "smollm2-135m", "RTX3080", "LoRA", "agreed"),
    Question("8B on 2xA100-40, 20k rows", "llama-3.1-8b", "2xA100-40G", "LoRA, rank 64", "agreed", rows=20_000),
    Question("8B on 2xA100-80, 20k rows", "llama-3.1-8b", "2xA100-80G", "LoRA, rank 64", "agreed", rows=20_000),
    Question(
        "8B on A10G",
        "llama-3.1-8b",
        "A10G",
        "LoRA, recomputes selective, 1.7 h (QLoRA 81 min)",
        "doubtful",
        remark="the reason says both durations",
    ),
    Question(
        "8B on 4090, 5k preference pairs",
        "llama-3.1-8b",
        "RTX4090",
        "LoRA, rank 32",
        "agreed",
        rows=5_000,
        asked={"objective": "dpo"},
    ),
    Question(
        "8B on 8xH100, 10 rows",
        "llama-3.1-8b",
        "8xH100",
        "8 GPUs for 1 row a step",
        "wrong",
        rows=10,
        remark="no more GPUs than rows a step",
    ),
    Question(
        "8B on 4090, one row of 8k among 200s",
        "llama-3.1-8b",
        "RTX4090",
        "LoRA, recomputes full, T 12,800",
        "agreed",
        tokens=200,
        longest=8_000,
        remark=MARGIN,
    ),
    Question("Gemma 3 27B on L40S", "gemma-3-27b", "L40S", "QLoRA", "agreed"),
    Question("GPT-2 XL on 3080", "gpt2-xl", "RTX3080", "a plan that the trainer refuses", "wrong"),
    Question("7B on V100-32", "llama-2-7b", "V100-32G", "LoRA, fp16", "agreed"),
    Question("8B on B200, 60k rows", "llama-3.1-8b", "B200", "full, 170.8/180", "doubtful", rows=60_000, remark=ALL),
    Question("70B on 16xH100, 60k rows", "llama-3.1-70b", "16xH100", "LoRA", "doubtful", rows=60_000),
    Question(
        "1B on 8xA100, 60k rows of 30 tokens, 2 learned",
        "llama-3.2-1b",
        "8xA100-80G",
        "full",
        "wrong",
        rows=60_000,
        tokens=30,
        longest=60,
        learned=2 / 30,
        remark=INFORMATION,
    ),
)


def _lines() -> Iterator[str]:
    for question in QUESTIONS:
        yield f"{question.text}\n    then ({question.verdict}): {question.then}\n    now: {in_short(question.answer())}"


def main() -> int:
    """Print all, or write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    if options.page is None:
        print("\n".join(_lines()))
    else:
        write(options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
