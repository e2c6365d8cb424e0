"""Runs the trainer's own programs as processes, so that this command never imports torch."""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest

_TAIL_LINES = 12


class ToolFailed(InvalidRequest):
    """A program of the trainer ended badly; the message is its own, and the code if it gave one."""

    code = ErrorCode.TOOL_FAILED


def run_tool(module: str, *arguments: str) -> str:
    """Run `python -m module arguments...` with no access to the network's hub; returns what it printed.

    Raises:
        ToolFailed: with the reason and the hint it gave as JSON on stderr, else with the end of its stderr.
    """
    if importlib.util.find_spec("torch") is None:
        raise ToolFailed("This needs the trainer's libraries.", hint="pip install 'tunesmith[worker]'")
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if ended.returncode == 0:
        return ended.stdout
    reason = last_json(ended.stderr)
    tail = "\n".join(ended.stderr.strip().splitlines()[-_TAIL_LINES:])
    raise ToolFailed(
        reason.get("message") or f"{module} ended with code {ended.returncode}:\n{tail}",
        hint=reason.get("hint"),
    ).with_code(reason.get("code") or ToolFailed.code)


def last_json(text: str) -> dict[str, Any]:
    """The JSON object in the last line, or an empty one."""
    lines = text.strip().splitlines()
    try:
        value = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
