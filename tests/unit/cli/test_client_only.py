"""Where only the client is installed, whatever needs more says which extra to install, and nothing ends in a trace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMMANDS = {  # what each says: the extra, or for what needs no more, nothing of installing
    "up --data-dir data": "embedded",
    "demo": "[demo]",
    "data check a.parquet": "[data]",
    "data check a.jsonl": None,
    "data check a.jsonl --model model": "[data]",
    "data check a.jsonl --model model --preview 1": "[data]",
    "files add a.parquet": "[data]",
    "submit a.parquet --model x": "[data]",
    "models add x --gguf m.gguf": "[worker]",
    "models add x --config model": "[worker]",
    "plan --config model --on 1xA100-80G --rows 10": "[worker]",
    "plan --model llama-3.1-8b --on 1xA100-80G --data a.jsonl": None,
    "ls": None,
    "models ls": None,
    "keys ls": None,
    "ci schema": None,
    "service serve": "[service]",
    "service migrate": "[service]",
    "worker run": "[worker]",
    "worker join http://127.0.0.1:9 --token x": "[worker]",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, str]]:
    """How every command ended, all in one process."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "none-such"}')
    (folder / "model" / "tokenizer.json").write_text("{}")
    (folder / "a.parquet").write_bytes(b"PAR1")
    (folder / "m.gguf").write_bytes(b"GGUF")
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (folder / "a.jsonl").write_text(json.dumps(row))
    programs = [
        (words[0], words[1:]) if (words := command.split())[0] in ("service", "worker") else ("tunesmith", words)
        for command in COMMANDS
    ]
    around = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), "COLUMNS": "300"}
    service = {"TUNESMITH_URL": "http://127.0.0.1:9", "TUNESMITH_API_KEY": "k", "TUNESMITH_DATA_DIR": str(folder)}
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("client_only.py"))],
        input=json.dumps(programs),
        env=around | service,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(COMMANDS, json.loads(ended.stdout), strict=True))


@pytest.mark.parametrize(("command", "extra"), COMMANDS.items())
def test_a_command_says_which_extra_it_needs_and_shows_no_trace(
    told: dict[str, tuple[object, str]], command: str, extra: str | None
) -> None:
    code, said = told[command]
    assert code is None or isinstance(code, int), said
    assert "bug in the command" not in said
    assert "Traceback" not in said
    if extra:
        assert extra in said
        assert "pip install" in said
        assert code
    else:
        assert "pip install" not in said
