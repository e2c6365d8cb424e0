"""What every piece shares: the device, the clock, the carried wheels, and a file that grows line by line."""

import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NEEDED = ("torch", "transformers", "accelerate", "safetensors", "tokenizers", "pydantic", "numpy", "psutil", "pytest")
OPTIONAL = ("peft", "bitsandbytes", "triton", "flash_attn", "flash_attn_interface", "liger_kernel", "deepspeed")
BUDGET_SECONDS = 440.0  # of a piece; a command on a lent machine may end after eight or ten minutes


@dataclass
class Setting:
    """One piece's run. `tiny` takes shapes that a CPU is done with in seconds: it proves the script, not the GPU."""

    piece: str
    device: str
    tiny: bool
    out: Path
    budget_seconds: float
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds_left(self) -> float:
        """Of the piece's time budget."""
        return self.budget_seconds - (time.perf_counter() - self.began)

    def record(self, **values: Any) -> None:
        """One result, written at once: a piece that is killed leaves what it had."""
        self.out.mkdir(parents=True, exist_ok=True)
        line = {"piece": self.piece, **values}
        with (self.out / f"{self.piece}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print("  ".join(f"{name}={_short(value)}" for name, value in line.items() if name != "piece"), flush=True)

    def tried(self, work: Callable[[], dict[str, Any]], *, needs_seconds: float = 0.0, **names: Any) -> bool:
        """Record what `work` finds under `names`; that it failed and why; or that there was no time left for it."""
        if self.seconds_left < needs_seconds:
            self.record(**names, outcome="left out: no time left in this piece")
            return False
        try:
            found = work()
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.record(**names, outcome=f"failed: {type(error).__name__}: {lines[0][:300]}")
            free_memory(self.device)
            return False
        self.record(**names, **({"outcome": "ok"} | found))
        return True


def begin(piece: str, *, device: str, tiny: bool, out: Path | None, budget_seconds: float) -> Setting:
    """The piece's file starts anew, with where it ran as its first line."""
    folder = folder_of(out)
    setting = Setting(piece, device, tiny, folder, budget_seconds)
    (folder / f"{piece}.jsonl").unlink(missing_ok=True)
    setting.record(machine=machine(device), tiny=tiny)
    return setting


def folder_of(out: Path | None) -> Path:
    """Where results go: as asked, else $OUT, else beside this file."""
    folder = out or Path(os.environ.get("OUT") or HERE / "results")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def machine(device: str) -> dict[str, Any]:
    """Names and versions."""
    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "device": device}
    for name in (*NEEDED, *OPTIONAL):
        if name not in ("pytest", "psutil") and (version := _version(name)):
            found[name] = version
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        found |= {"capability": f"{properties.major}.{properties.minor}", "cuda": torch.version.cuda}
    return found


def carry_wheels(folder: Path) -> list[str]:
    """Make the wheels of a folder importable without pip or network; returns their names."""
    wheels = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    for wheel in wheels:
        target = Path(tempfile.gettempdir()) / "tunesmith-wheels" / wheel.stem
        if not target.is_dir():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
        sys.path.append(str(target))  # after what is installed
        os.environ["PYTHONPATH"] = os.pathsep.join([p for p in (os.environ.get("PYTHONPATH"), str(target)) if p])
    return [wheel.name for wheel in wheels]


def missing(names: tuple[str, ...] = NEEDED) -> list[str]:
    """Packages that are not there."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def free_memory(device: str) -> None:
    """Give back what the last configuration held."""
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def best_seconds(work: Callable[[], object], device: str, *, repeats: int = 5) -> float:
    """The fastest of several runs, after one that warms up."""
    import torch

    def once() -> float:
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    once()
    return min(once() for _ in range(repeats))


def lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Every recorded result of a folder."""
    for file in sorted(folder.glob("*.jsonl")):
        yield from (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())


def _version(name: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
