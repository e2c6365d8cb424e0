"""One run of each way that processes share the work, in every `make test`; the grids are in `make test-slow`."""

from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tests.train.processes import gang
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import RunDirectory

LIMIT = 1e-6  # of a weight's difference; rates are 1e-3, so a step that differed would show a thousand times as much
WAYS: dict[str, dict[str, object]] = {
    "data parallel": {"method": "lora"},
    "sharded 4-bit base": {"method": "qlora", "sharded_base": True},
    "ZeRO stage 3": {"method": "full", "zero_stage": 3, "checkpoint_interval_steps": 2, "rows_per_step": 4},
}


class Trained(NamedTuple):
    """Each way on two processes and on one; ZeRO a third time, killed and gone on."""

    together: dict[str, RunDirectory]
    alone: dict[str, RunDirectory]
    killed: RunDirectory


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("slice")
    model = build_tiny_model(root / "model")

    def make(name: str, way: str, *, processes: int) -> RunDirectory:
        # Small micro-steps, so that a step has several and an uneven number of them per process.
        values: dict[str, object] = {"tokens_per_micro_step": 64, "learning_rate": 1e-3, "epochs": 1}
        single = {"zero_stage": 0, "sharded_base": False} if processes == 1 else {}
        plan = plans.plan(**{**values, **WAYS[way], **single, "world_size": processes})
        return runs.make_run(root / name, model=model, plan=plan, rows=runs.chat_rows(24))

    together = {way: make(way, way, processes=2) for way in WAYS}
    killed = make("killed", "ZeRO stage 3", processes=2)
    jobs: list[gang.Job] = [{"run": str(directory.root)} for directory in (*together.values(), killed)]
    codes = gang.train_all([*jobs[:-1], {**jobs[-1], "kill_at_step": 3}, jobs[-1]])
    assert codes[-1] == [0, 0], killed.log.read_text()
    alone = {way: make(f"{way} alone", way, processes=1) for way in WAYS}
    for directory in alone.values():
        assert runs.train_here(directory) == 0
    return Trained(together, alone, killed)


def result_of(directory: RunDirectory) -> Path:
    return next(directory.output.glob("*model.safetensors"))


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_learn_what_one_learns(trained: Trained, way: str) -> None:
    got, wanted = (load_file(result_of(directory[way])) for directory in (trained.together, trained.alone))
    assert set(got) == set(wanted)
    assert max(float((value - wanted[name]).abs().max()) for name, value in got.items()) < 10 * LIMIT


def test_processes_that_were_killed_go_on_to_the_bytes_of_the_undisturbed_ones(trained: Trained) -> None:
    told = " ".join(event["message"] for event in runs.events(trained.killed))
    assert "Continuing from the checkpoint" in told
    assert sha256_of(result_of(trained.killed)) == sha256_of(result_of(trained.together["ZeRO stage 3"]))
