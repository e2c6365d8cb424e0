"""A trainer forked from the real warm process makes the bytes of one that was started alone; the guard knows why."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.plans import lora, plan
from tests.tiny_model import build_tiny_model
from tests.train.runs import chat_rows, make_run
from tunesmith.tuning.words import Method
from tunesmith.worker.machine.slots import Slot
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.trainer_process.launcher import How, launch, trainer_environment
from tunesmith.worker.trainer_process.processes import adopt_orphans, bury_orphans
from tunesmith.worker.trainer_process.warm import WarmTrainer

WEIGHTS = {Method.FULL: "model.safetensors"}


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmTrainer]:
    environment = trainer_environment(os.environ, run_dir=Path("/nowhere"), cores=1, devices=())
    trainer = WarmTrainer(environment=environment)
    trainer.keep()
    yield trainer
    trainer.close()
    bury_orphans(but=())
    adopt_orphans(adopt=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def train(directory: RunDirectory, *, warm: WarmTrainer | None, started: How) -> None:
    records = directory.root.with_name("trainers")
    records.mkdir()
    if warm is not None:
        warm.keep()  # as a worker does before each job: one that died fails one test and not all that follow
    trainer = launch(
        directory,
        directory.request().plan,
        slot=Slot(0),
        cores=1,
        devices=(),
        records=records,
        log_cap_bytes=1 << 20,
        warm=warm,
    )
    assert trainer.start == started
    assert trainer.process.wait(timeout=120) == 0, directory.log.read_text()
    trainer.end()


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"lora": lora(dropout=0.1)}, id="lora"),
        pytest.param({"method": Method.FULL, "lora": None}, id="full"),
        pytest.param({"method": Method.QLORA, "precision": "bf16"}, id="qlora", marks=pytest.mark.slow),
    ],
)
def test_forked_and_started_trainers_make_the_same_bytes(
    warm: WarmTrainer, model: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    shape = plan(total_steps=4, epochs=4, **changes)
    runs = [make_run(tmp_path / name, model=model, plan=shape, validation=chat_rows(4)) for name in ("warm", "plain")]
    train(runs[0], warm=warm, started="warm")
    train(runs[1], warm=None, started="plain")
    name = WEIGHTS.get(shape.method, "adapter_model.safetensors")
    one, other = (hashlib.sha256((run.output / name).read_bytes()).hexdigest() for run in runs)
    assert one == other
    forked, plain = (run.read_result() for run in runs)
    assert forked is not None
    assert plain is not None
    assert (forked.final_train_loss, forked.final_valid_loss) == (plain.final_train_loss, plain.final_valid_loss)


@pytest.mark.slow
def test_what_one_job_did_to_torch_the_next_does_not_see(tmp_path: Path, model: Path, warm: WarmTrainer) -> None:
    """A run in another dtype and with other random numbers comes between two equal ones."""
    digests = []
    for name, changes in (("first", {}), ("between", {"seed": 8, "precision": "bf16"}), ("last", {})):
        directory = make_run(tmp_path / name, model=model, plan=plan(total_steps=3, **changes))
        train(directory, warm=warm, started="warm")
        digests.append(hashlib.sha256((directory.output / "adapter_model.safetensors").read_bytes()).hexdigest())
    assert digests[0] == digests[2] != digests[1]


def test_the_guard_says_no_to_whatever_a_fork_could_not_bear(tmp_path: Path) -> None:
    script = f"""
        import json, mmap, os, sys, threading, types
        from tunesmith.worker.train import environment
        import torch
        sys.path.insert(0, {str(tmp_path)!r})
        import on_disk
        from tunesmith.worker.train.warm import server
        from tunesmith.worker.train.warm.guard import Guard, open_descriptors
        guard = Guard(descriptors=open_descriptors().keys())
        said = {{"nothing": guard.obstacle()}}

        waiting = threading.Event()
        threading.Thread(target=waiting.wait, daemon=True).start()
        said["thread"] = guard.obstacle()
        waiting.set()
        while len(os.listdir("/proc/self/task")) > 1: pass

        shared = mmap.mmap(-1, 4096)
        said["shared"] = guard.obstacle()
        shared.close()

        descriptor = os.open("/dev/zero", os.O_RDONLY)
        said["received"] = guard.obstacle(received=[descriptor])
        said["strange"] = guard.obstacle()
        os.close(descriptor)

        torch.cuda.is_initialized = lambda: True
        said["cuda"] = guard.obstacle()
        torch.cuda.is_initialized = lambda: False

        sys.modules["peft"] = types.ModuleType("peft")
        said["import"] = guard.obstacle()
        del sys.modules["peft"]

        said["after all"] = guard.obstacle()
        with open(on_disk.__file__, "a") as file: file.write("upgraded = True")
        said["file"] = guard.obstacle()
        print(json.dumps(said))
    """
    (tmp_path / "on_disk.py").write_text("value = 1\n")
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["nothing"] is said["received"] is said["after all"] is None, "what every trainer imports bears a fork"
    assert said["thread"] == "it has 2 threads"
    assert "shares writable memory" in said["shared"]
    assert said["strange"] == "it has /dev/zero open"
    assert said["cuda"] == "CUDA is in use"
    assert said["import"] == "peft has been imported"
    assert said["file"] == f"{tmp_path}/on_disk.py has changed since it was imported"


@pytest.mark.slow
def test_importing_what_a_trainer_imports_asks_for_no_gpu() -> None:
    """CUDA cannot be used in a fork of a process that has touched it."""
    script = """
        from tunesmith.worker.train import environment
        import torch
        def asked(*_, **__): raise AssertionError("an import asked for a GPU")
        for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "get_device_properties"):
            setattr(torch.cuda, name, asked)
        from tunesmith.worker.train.warm import server
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=120)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible to PyTorch")
def test_a_fork_can_use_the_gpu(model: Path, tmp_path: Path) -> None:
    environment = trainer_environment(os.environ, run_dir=Path("/nowhere"), cores=1, devices=("0",))
    trainer = WarmTrainer(environment=environment)
    trainer.keep()
    directory = make_run(tmp_path, model=model, plan=plan(total_steps=3, device="cuda", precision="bf16"))
    records = tmp_path / "trainers"
    records.mkdir()
    options = {"slot": Slot(0), "cores": 1, "devices": ("0",), "records": records, "log_cap_bytes": 1 << 20}
    try:
        forked = launch(directory, directory.request().plan, warm=trainer, **options)
        assert forked.start == "warm"
        assert forked.process.wait(timeout=300) == 0, directory.log.read_text()
        forked.end()
    finally:
        trainer.close()
        adopt_orphans(adopt=False)
