"""The clients that are played, each in an environment of its own below `.conformance/`, made once and kept."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2] / ".conformance"
OPENAI_VERSIONS = ("1.66.5", "1.109.1", "2.8.0", "3.54.0")  # the oldest knows `method`, the newest webhooks
NODE, LITELLM = "6.49.0", "1.110.2"
FUZZER = "4.32.5"  # of schemathesis
_HERE = Path(__file__).parent
_CASES_SECONDS = 900.0  # on a machine that does much else


@dataclass(frozen=True)
class Client:
    """One client: what the page calls it, and the command that plays cases with it."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def play(self, *words: str) -> dict[str, str]:
        """By case: `ok`, or what was wrong.

        Raises:
            RuntimeError: the program ended without outcomes.
        """
        done = subprocess.run(
            [*self.command, *words],
            env=os.environ | dict(self.environment),
            capture_output=True,
            text=True,
            timeout=_CASES_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        # LiteLLM says a word of its own at its end.
        outcomes = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), None)
        if outcomes is None:
            raise RuntimeError(f"{self.name} told no outcomes:\n{done.stdout[-2000:]}")
        return dict(json.loads(outcomes))


def clients(absent: list[str]) -> Iterator[Client]:
    """One after another, installed where it was not yet; `absent` gets the names of those that could not be."""
    for name, make in _MAKERS.items():
        try:
            yield make(name)
        except (subprocess.CalledProcessError, FileNotFoundError) as problem:
            print(f"{name} cannot be installed here: {problem}", flush=True)
            absent.append(name)


def _python(name: str) -> Client:
    package, version = name.split()
    cases = "litellm_cases.py" if package == "litellm" else "cases.py"
    offline = (("LITELLM_LOCAL_MODEL_COST_MAP", "True"),) if package == "litellm" else ()
    return Client(name, (str(environment(package, version)), str(_HERE / cases)), offline)


def _of_node(name: str) -> Client:
    return Client(name, ("node", str(_node() / "cases.mjs")))


_MAKERS: dict[str, Callable[[str], Client]] = {
    **{f"openai {version}": _python for version in OPENAI_VERSIONS},
    f"node openai {NODE}": _of_node,
    f"litellm {LITELLM}": _python,
}


def environment(package: str, version: str) -> Path:
    """The Python of a virtual environment that has this package."""
    folder = ROOT / f"{package}-{version}"
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        print(f"making an environment with {package} {version}", flush=True)
        wanted = f"{package}=={version}"
        if uv := shutil.which("uv"):
            _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
            _run(uv, "pip", "install", "--quiet", "--python", str(python), wanted)
        else:
            _run(sys.executable, "-m", "venv", "--clear", str(folder))
            _run(str(python), "-m", "pip", "install", "-qq", wanted)
        (folder / "done").touch()
    return python


def _node() -> Path:
    """A folder with Node's package and the cases, for a module is looked for beside who imports it."""
    folder = ROOT / f"node-{NODE}"
    if not (folder / "node_modules" / "openai").exists():
        print(f"fetching node's openai {NODE}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        _run("npm", "install", "--silent", "--prefix", str(folder), f"openai@{NODE}")
    shutil.copy(_HERE / "cases.mjs", folder)
    return folder


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
