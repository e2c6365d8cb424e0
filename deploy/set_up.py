"""`python3 deploy/set_up.py VENV [--deepspeed]`: a virtual environment with the project in it, telling what it does.

Uses `uv` where it is on the path, else `venv` and `pip`. Whatever takes long says a line for each package, or how far
it is at least every ten seconds. Runs before anything is installed, so with the standard library alone.
"""

import argparse
import contextlib
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "service,worker,embedded,data,demo,dev"
SILENCE_SECONDS = 6.0  # and up to five to add up a folder on a busy machine
_TELLING = (
    "Collecting ",
    "Downloading ",
    "Building ",
    "Installing ",
    "Installed ",
    "Successfully ",
    "Resolved ",
    "Prepared ",
)
_LAST_LINES = 30  # of what a program said, when it fails
_LONGEST_LINE = 100


def main() -> int:
    """Make the environment, or add to it; returns the exit code of what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("venv", type=Path)
    parser.add_argument("--deepspeed", action="store_true", help="add DeepSpeed to an environment that is there")
    options = parser.parse_args()
    uv = shutil.which("uv")
    steps = [deepspeed(options.venv, uv)] if options.deepspeed else list(environment(options.venv, uv))
    return next((code for label, command in steps if (code := run(label, command, watched=options.venv))), 0)


def environment(venv: Path, uv: str | None) -> Iterator[tuple[str, list[str]]]:
    """Each step by what it is called and its command. DeepSpeed is for sharing a model out over GPUs alone."""
    if uv:
        yield "make the environment", [uv, "venv", "--allow-existing", "--seed", "--python", sys.executable, str(venv)]
    else:
        yield "make the environment", [sys.executable, "-m", "venv", str(venv)]
        yield "upgrade pip", [*installer(venv, uv), "--upgrade", "pip"]
    yield f"install with {'uv' if uv else 'pip'}", [*installer(venv, uv), "--editable", f"{ROOT}[{EXTRAS}]"]
    if has_gpu():
        yield deepspeed(venv, uv)


def deepspeed(venv: Path, uv: str | None) -> tuple[str, list[str]]:
    """It imports torch while it builds, so it comes after everything else."""
    return "build DeepSpeed", [*installer(venv, uv), "--no-build-isolation", "deepspeed"]


def installer(venv: Path, uv: str | None) -> list[str]:
    """The beginning of a command that installs the pinned versions."""
    python, pins = str(venv / "bin" / "python"), ["--constraint", str(ROOT / "constraints.txt")]
    if uv:
        return [uv, "pip", "install", "--python", python, *pins]
    return [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", *pins]


def has_gpu() -> bool:
    """Whether a driver of NVIDIA is here."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def run(label: str, command: Sequence[str], *, watched: Path, silence_seconds: float = SILENCE_SECONDS) -> int:
    """Run a program and tell what it is at; returns its exit code, and shows its last words when that is not 0."""
    started, said = time.monotonic(), []
    print(f"{label} ...", flush=True)
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, **piped) as program:
        for line in _lines(program, silence_seconds=silence_seconds):
            passed = f"{time.monotonic() - started:4.0f} s"
            if line is None:
                print(f"  {passed}  {megabytes(watched):,} MB in {watched.name}", flush=True)
                continue
            said.append(line)
            if line.strip().startswith(_TELLING):
                print(f"  {passed}  {line.strip()[:_LONGEST_LINE]}", flush=True)
    if program.returncode:
        print(*said[-_LAST_LINES:], f"{label} failed: {' '.join(command)}", sep="\n", file=sys.stderr, flush=True)
    return program.returncode


def _lines(program: "subprocess.Popen[str]", *, silence_seconds: float) -> Iterator[str | None]:
    """What the program says, and None whenever it has said nothing that was told for so long."""
    words: queue.Queue[str | None] = queue.Queue()
    assert program.stdout is not None  # noqa: S101  it is piped
    reader = threading.Thread(target=lambda: [*map(words.put, program.stdout), words.put(None)], daemon=True)
    reader.start()
    due = time.monotonic() + silence_seconds
    while True:
        try:
            line = words.get(timeout=max(0.0, due - time.monotonic()))
        except queue.Empty:
            yield None
            due = time.monotonic() + silence_seconds
            continue
        if line is None:
            return
        yield line.rstrip("\n")
        if line.strip().startswith(_TELLING):
            due = time.monotonic() + silence_seconds


def megabytes(folder: Path) -> int:
    """What the files of a folder hold."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # gone since the folder was read
                total += (Path(parent) / name).lstat().st_size
    return total // 1_000_000


if __name__ == "__main__":
    sys.exit(main())
