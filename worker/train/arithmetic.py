"""What a machine adds up with: two that differ in it may differ in the last bit of a sum."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def arithmetic_of(device: torch.device) -> dict[str, Any]:
    """What may change the last bit of a sum: processor, its vector instructions, threads, and the GPU."""
    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": _processor(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
        facts["compute_capability"] = list(torch.cuda.get_device_capability(device))
        facts["cuda"] = torch.version.cuda
    return facts


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is another now, in words: "threads 2, now 1"; nothing where `before` is empty."""
    return [
        f"{name.replace('_', ' ')} {before[name]}, now {now.get(name)}"
        for name in before
        if before[name] != now.get(name)
    ]


def _processor() -> str:
    """The processor's own name; `platform` knows it on few systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
