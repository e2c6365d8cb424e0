"""The container files say what they mean: valid by schema and linter, and every command they run exists."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import yaml

from tunesmith.tuning.values.hashes import sha256_of_text

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(a) for a in arguments], cwd=ROOT, capture_output=True, text=True, check=False)


COMPOSE, BUCKET = "docker-compose.yml", "deploy/compose.bucket.yml"


def compose_services(file: str = COMPOSE) -> dict[str, dict[str, object]]:
    return yaml.safe_load((ROOT / file).read_text())["services"]


@pytest.mark.parametrize("file", [COMPOSE, BUCKET])
def test_the_compose_file_is_valid_by_the_compose_specification(file: str) -> None:
    result = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)
    assert result.returncode == 0, result.stdout + result.stderr


def test_with_a_bucket_every_process_that_keeps_files_keeps_them_there() -> None:
    for name in ("service", "worker-service", "keeper"):
        assert name in compose_services()
        found = compose_services(BUCKET)[name]
        assert found["environment"]["TUNESMITH_STORE"] == "s3://tunesmith"
        assert "first-bucket" in found["depends_on"]


@pytest.mark.parametrize("dockerfile", ["Dockerfile.gpu", "deploy/Dockerfile.service"])
def test_the_linter_finds_nothing_in(dockerfile: str) -> None:
    result = run(BIN / "hadolint", dockerfile)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_compose_file_starts_every_part_of_the_design() -> None:
    services = compose_services()
    assert {"postgres", "valkey", "service", "worker-service", "keeper", "proxy", "first-keys"} <= set(services)
    assert {"worker-gpu", "worker-cpu"} <= set(services)
    assert services["service"]["deploy"] == {"replicas": 2}
    assert services["worker-cpu"]["profiles"] == ["cpu"]


@pytest.mark.parametrize("file", [COMPOSE, BUCKET])
def test_no_secret_has_a_default(file: str) -> None:
    text = (ROOT / file).read_text()
    defaults = re.findall(r"\$\{([A-Z_]*(?:PASSWORD|KEY|SECRET)[A-Z_]*):-([^}]+)\}", text)
    assert defaults == []


def test_every_command_the_containers_run_is_understood_by_the_program() -> None:
    commands = {("tunesmith-service", "serve"), ("tunesmith-worker", "run")}
    for service in compose_services().values():
        command = service.get("command") or []
        if isinstance(command, list) and command and str(command[0]).startswith("tunesmith"):
            commands.add(tuple(word for word in command[:3] if not word.startswith("-")))
    for dockerfile in ("Dockerfile.gpu", "deploy/Dockerfile.service"):
        for program, verb in re.findall(r'CMD \["(tunesmith-[a-z]+)", "([a-z]+)"', (ROOT / dockerfile).read_text()):
            commands.add((program, verb))
    assert ("tunesmith-service", "keys", "first") in commands
    for program, *verbs in sorted(commands):
        result = run(BIN / program, *verbs, "--help")
        assert result.returncode == 0, f"{program} {verbs}: {result.stderr}"


def test_no_image_is_one_that_nobody_makes_any_more() -> None:
    images = [str(service["image"]) for service in compose_services().values()]
    assert not [image for image in images if "minio" in image or "bitnami" in image]
    assert "nvidia/cuda" not in (ROOT / "Dockerfile.gpu").read_text()


def test_whatever_goes_on_running_has_a_health_check() -> None:
    images_with_one = {"tunesmith-service:latest", "tunesmith-worker:latest"}
    for dockerfile in ("deploy/Dockerfile.service", "Dockerfile.gpu"):
        assert "HEALTHCHECK" in (ROOT / dockerfile).read_text()
    for name, service in compose_services().items():
        check = service.get("healthcheck")
        if service.get("restart") == "no":
            continue
        assert "test" in check if check else service["image"] in images_with_one, name


def test_other_machines_reach_the_proxy_alone_and_that_only_when_told_so() -> None:
    published = {name: service["ports"] for name, service in compose_services().items() if "ports" in service}
    assert list(published) == ["proxy"]
    assert all(re.match(r"\$\{TUNESMITH_(WORKER_)?BIND:-127\.0\.0\.1\}:", str(port)) for port in published["proxy"])
    caddyfile = (ROOT / "deploy" / "Caddyfile").read_text()
    people, workers = caddyfile.split("{$TUNESMITH_HOST:localhost}")[1:]
    assert "respond /internal/* 404" in people
    assert "worker-service:8100" in workers
    assert caddyfile.count("tls {$TUNESMITH_TLS:internal}") == 2


def test_every_process_that_stores_or_reads_bytes_mounts_the_store() -> None:
    for name in ("service", "worker-service", "keeper"):
        service = compose_services()[name]
        assert "store:/var/lib/tunesmith/store" in service["volumes"], name
        assert service["environment"]["TUNESMITH_STORE"] == "file:///var/lib/tunesmith/store"


def test_every_variable_of_the_compose_file_is_explained() -> None:
    named = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert named <= set(re.findall(r"^([A-Z_]+)=", (ROOT / "deploy" / "env.example").read_text(), re.MULTILINE))


def test_the_build_context_is_what_the_images_copy_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    for dockerfile in ("deploy/Dockerfile.service", "Dockerfile.gpu"):
        copied = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / dockerfile).read_text(), re.MULTILINE)
        assert {name for line in copied for name in line.split()} <= kept


def test_the_unit_of_systemd_is_one_that_systemd_understands(tmp_path: Path) -> None:
    """Where systemd is; elsewhere its sections and words are looked at."""
    unit = (ROOT / "deploy" / "tunesmith-worker.service").read_text()
    settings = dict(re.findall(r"^([A-Za-z]+)=(.*)$", unit, re.MULTILINE))
    assert re.findall(r"^\[(\w+)\]$", unit, re.MULTILINE) == ["Unit", "Service", "Install"]
    assert settings["ExecStart"].endswith("tunesmith-worker run")
    assert settings["KillMode"] == "mixed"
    assert int(settings["TimeoutStopSec"]) > 120
    if program := shutil.which("systemd-analyze"):
        (tmp_path / "bin").mkdir()
        copy = tmp_path / "tunesmith-worker.service"
        copy.write_text(unit.replace("%h/tunesmith-worker/bin/tunesmith-worker", str(BIN / "tunesmith-worker")))
        checked = run(program, "verify", "--user", copy)
        assert "tunesmith-worker.service" not in checked.stderr, checked.stderr


def test_first_keys_are_made_once_and_work(fresh_database_url: str, tmp_path: Path) -> None:
    files = {role: tmp_path / f"{role}.key" for role in ("admin", "worker")}
    command = ["tunesmith-service", "keys", "first"]
    options = [word for role, file in files.items() for word in (f"--{role}-file", str(file))]

    def start() -> list[str]:
        environment = {**os.environ, "DATABASE_URL": fresh_database_url}
        made = subprocess.run(
            [str(BIN / command[0]), *command[1:], *options], env=environment, capture_output=True, text=True, check=True
        )
        assert "ts-" not in made.stdout + made.stderr
        return [file.read_text().strip() for file in files.values()]

    first = start()
    assert start() == first
    assert [file.stat().st_mode & 0o777 for file in files.values()] == [0o600, 0o600]
    with psycopg.connect(fresh_database_url) as connection:
        found = connection.execute("SELECT key_sha256, role FROM api_keys ORDER BY role").fetchall()
    assert found == [(sha256_of_text(key), role) for key, role in zip(first, files, strict=True)]
