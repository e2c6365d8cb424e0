"""Sixty further questions, asked as an outside examiner would and judged by hand: written below the review's 51."""

from typing import Any

from benchmarks.planner.questions import Question, in_short

BEGIN, END = "<!-- further questions -->", "<!-- end of further questions -->"
LONG: dict[str, Any] = {"tokens": 64_000, "longest": 128_000}
LENGTH = "a length that no row reaches took memory"
PARTS = "a base that fits whole was shared out"
RANK = "shorter rows were offered before a smaller rank"
NEXT = "the next step was wrong"
BLAME = "embeddings were blamed"


def asked(
    text: str,
    model: str,
    machine: str,
    rows: int = 2_000,
    *,
    mended: str = "",
    job: dict[str, Any] | None = None,
    **data: Any,
) -> Question:
    """In one line; `mended` says what was wrong with the first answer."""
    verdict = "wrong" if mended else "agreed"
    return Question(text, model, machine, "", verdict, rows=rows, asked=job or {}, remark=mended, **data)  # type: ignore[arg-type]


FURTHER: tuple[Question, ...] = (
    asked("1B on 8 cores, 200 rows", "llama-3.2-1b", "8xCPU:32G", 200),
    asked("135M on 2 cores and 4 GiB, 24 rows", "smollm2-135m", "2xCPU:4G", 24, tokens=100, longest=200),
    asked("135M on 1 GiB", "smollm2-135m", "CPU:1G", 100, mended="0.9 GiB needed, 0.9 free"),
    asked("8B on 16 cores and 64 GiB", "llama-3.1-8b", "16xCPU:64G", 500),
    asked("70B on 64 cores and 512 GiB", "llama-3.1-70b", "64xCPU:512G", 100),
    asked("4B on a laptop's 4060", "qwen3-4b", "RTX4060 Laptop", 1_000),
    asked("1.5B on a laptop's 4050", "qwen2.5-1.5b", "RTX4050 Laptop", 5_000),
    asked("3.8B on a laptop's 3060", "phi-3-mini", "RTX3060 Laptop", 5_000),
    asked("8B on an RTX 5060", "llama-3.1-8b", "RTX5060", 5_000),
    asked("7B on a T4", "mistral-7b", "T4", 5_000),
    asked("7B on two T4s", "mistral-7b", "2xT4", 5_000, mended=PARTS),
    asked("0.5B on a T4, 60k rows", "qwen2.5-0.5b", "T4", 60_000),
    asked("8B on a V100 of 16 GB", "llama-3.1-8b", "V100-16G", 5_000),
    asked("8B on four V100s, 60k rows", "llama-3.1-8b", "4xV100-32G", 60_000),
    asked("2B on a V100, rows of 8k", "gemma-2-2b", "V100-16G", 5_000, tokens=1_500, longest=8_192),
    asked("9B on two 3090s", "gemma-2-9b", "2xRTX3090", 8_000, mended=PARTS),
    asked("14B on two 3090s", "qwen2.5-14b", "2xRTX3090", 8_000, mended=PARTS),
    asked("32B on two 4090s", "qwen2.5-32b", "2xRTX4090", 8_000),
    asked("8B on two 3090s, 5M rows", "llama-3.1-8b", "2xRTX3090", 5_000_000),
    asked("70B on four 3090s", "llama-3.3-70b", "4xRTX3090", 4_000),
    asked("8B on four 3060s", "llama-3.1-8b", "4xRTX3060", 5_000),
    asked("8B on two 4060s", "llama-3.1-8b", "2xRTX4060", 5_000),
    asked("8B on four L4s, 20k rows", "llama-3.1-8b", "4xL4", 20_000),
    asked("8B on eight A10Gs, 60k rows", "llama-3.1-8b", "8xA10G", 60_000),
    asked("70B on eight L40S", "llama-3.1-70b", "8xL40S", 10_000),
    asked("70B on two A6000", "llama-3.1-70b", "2xA6000"),
    asked("72B on four A100-40", "qwen2.5-72b", "4xA100-40G"),
    asked("8B on four A100-40, goal cost", "llama-3.1-8b", "4xA100-40G", 60_000, job={"goal": "cost"}),
    asked("70B on eight H200, 100k rows", "llama-3.1-70b", "8xH200", 100_000),
    asked("70B on eight B200, 100k rows", "llama-3.1-70b", "8xB200", 100_000),
    asked("405B on eight B200", "llama-3.1-405b", "8xB200"),
    asked("405B on two machines of H100s", "llama-3.1-405b", "16xH100"),
    asked("70B on two machines of H100s, 100k rows", "llama-3.1-70b", "16xH100", 100_000),
    asked("8B on a GH200, 60k rows", "llama-3.1-8b", "GH200", 60_000),
    asked("8B on an RTX 5090", "llama-3.1-8b", "RTX5090", 5_000),
    asked("8B on an RTX PRO 6000, 60k rows", "llama-3.1-8b", "RTX PRO 6000", 60_000),
    asked("8B on four H100 PCIe, 60k rows", "llama-3.1-8b", "4xH100 PCIe", 60_000),
    asked("8B on a slice, A100 3g.40gb, 5k rows", "llama-3.1-8b", "A100 3g.40gb", 5_000),
    asked("8B on a slice, H100 1g.10gb", "llama-3.1-8b", "H100 1g.10gb", 5_000),
    asked("8B on seven slices", "llama-3.1-8b", "7xA100 1g.10gb", 5_000),
    asked("8x7B on two A100-80", "mixtral-8x7b", "2xA100-80G", 5_000),
    asked(
        "8x7B on eight H100s, adapters on experts",
        "mixtral-8x7b",
        "8xH100",
        5_000,
        mended=NEXT,
        job={"lora": {"target_modules": "all-linear+experts"}},
    ),
    asked("8x22B on eight A100-80", "mixtral-8x22b", "8xA100-80G"),
    asked("235B-A22B on eight H100s", "qwen3-235b-a22b", "8xH100"),
    asked("gpt-oss 20B on an H100", "gpt-oss-20b", "H100", 3_000, mended="its name was unknown"),
    asked("gpt-oss 120B on eight H100s", "gpt-oss-120b", "8xH100", 3_000, mended="its name was unknown"),
    asked("8B on eight H100s, rows up to 128k", "llama-3.1-8b", "8xH100", 500, **LONG),
    asked("70B on eight H100s, rows up to 128k", "llama-3.1-70b", "8xH100", 500, mended=BLAME, **LONG),
    asked("8B on a 4090, length 32k asked", "llama-3.1-8b", "RTX4090", mended=LENGTH, job={"max_seq_length": 32_768}),
    asked("8B on 8 GiB of a 4090", "llama-3.1-8b", "RTX4090:8G"),
    asked("8B on 18 GiB of an A100", "llama-3.1-8b", "A100:18G"),
    asked("8B on eight H100s, one row", "llama-3.1-8b", "8xH100", 1, longest=500),
    asked("8B on eight H100s, 24 rows", "llama-3.1-8b", "8xH100", 24, tokens=300, longest=600),
    asked(
        "10.7B on eight RTX 2060, rows up to 4k",
        "solar-10.7b",
        "8xRTX2060",
        223,
        mended=RANK,
        tokens=2_442,
        longest=24_618,
        learned=0.86,
    ),
    asked("8B on an H100, 2k pairs", "llama-3.1-8b", "H100", job={"objective": "dpo"}),
    asked("70B on eight H100s, 20k pairs", "llama-3.1-70b", "8xH100", 20_000, job={"objective": "dpo"}),
    asked("8B on an H100, full asked", "llama-3.1-8b", "H100", 60_000, job={"method": "full"}),
    asked("8B on an A100, FP8 base", "llama-3.1-8b", "A100", mended=NEXT, job={"lora": {"float8_base": True}}),
    asked("70B on four L40S, DoRA", "llama-3.1-70b", "4xL40S", job={"lora": {"use_dora": True}}),
    asked("8B on a 4090, rank 256", "llama-3.1-8b", "RTX4090", job={"lora": {"rank": 256}}),
)


def table() -> str:
    """All of them, in Markdown."""
    lines = ["| question | answer | what was wrong with the first answer |", "|---|---|---|"]
    lines += [f"| {question.text} | {in_short(question.answer())} | {question.remark} |" for question in FURTHER]
    return "\n".join(lines)
