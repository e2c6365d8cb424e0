"""The container files say what they mean: valid by schema and linter, and every command they run exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(a) for a in arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def compose_services() -> dict[str, dict[str, object]]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_the_compose_file_is_valid_by_the_compose_specification() -> None:
    result = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("dockerfile", ["Dockerfile.gpu", "deploy/Dockerfile.service"])
def test_the_linter_finds_nothing_in(dockerfile: str) -> None:
    result = run(BIN / "hadolint", dockerfile)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_compose_file_starts_every_part_of_the_design() -> None:
    services = compose_services()
    assert {"postgres", "valkey", "objects", "service", "keeper", "worker-gpu", "worker-cpu"} <= set(services)
    assert services["service"]["deploy"] == {"replicas": 2}
    assert services["worker-cpu"]["profiles"] == ["cpu"]


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    defaults = re.findall(r"\$\{([A-Z_]*(?:PASSWORD|KEY|SECRET)[A-Z_]*):-([^}]+)\}", text)
    assert defaults == []


def test_every_command_the_containers_run_is_understood_by_the_program() -> None:
    commands = {("tunesmith-service", "serve"), ("tunesmith-worker", "run")}
    for service in compose_services().values():
        command = service.get("command") or []
        if isinstance(command, list) and command and str(command[0]).startswith("tunesmith"):
            commands.add((command[0], command[1]))
    for dockerfile in ("Dockerfile.gpu", "deploy/Dockerfile.service"):
        for program, verb in re.findall(r'CMD \["(tunesmith-[a-z]+)", "([a-z]+)"', (ROOT / dockerfile).read_text()):
            commands.add((program, verb))
    for program, verb in sorted(commands):
        result = run(BIN / program, verb, "--help")
        assert result.returncode == 0, f"{program} {verb}: {result.stderr}"
