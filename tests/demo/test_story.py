"""The demo's whole story with a tiny model: the same code, in seconds."""

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_model import build_tiny_model
from tests.waiting import eventually
from tunesmith.local.demo.compare import Comparison, side_by_side
from tunesmith.local.demo.dataset import Example, build
from tunesmith.local.demo.story import Script, tell
from tunesmith.local.demo.training import losses
from tunesmith.local.up import strays
from tunesmith.tuning.api.metrics import MetricPoint

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A short path, so that the sockets lie in the data directory as they do for a user."""
    folder = Path(f"/tmp/ts-{uuid.uuid4().hex[:8]}")
    yield folder
    assert strays.find(folder) == []
    shutil.rmtree(folder)


@pytest.mark.slow
def test_the_story_ends_well(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = build(training_rows=48, held_out_rows=8)
    texts = [f"{example.source} {example.answer}" for example in split.training]
    tiny = build_tiny_model(tmp_path / "tiny", texts=texts, vocabulary_size=1024)
    script = Script(
        model_name="tiny-llama", training_rows=48, held_out_rows=8, epochs=2, batch_size=4, max_seq_length=1024
    )

    code = tell(script, data_dir=data_dir, base_model=lambda: tiny)

    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "no module is on both sides" in printed.err
    assert "because" in printed.err
    assert "succeeded" in printed.err
    assert "before" in printed.out
    assert printed.out.count("its docstring:") == 3
    assert printed.out.count("base model") == 3
    (adapter,) = data_dir.glob("demo/ftjob-*/adapter/adapter_model.safetensors")
    assert f"tunesmith up --data-dir {data_dir}" in printed.err
    assert adapter.stat().st_size > 0


@pytest.mark.slow
def test_control_c_in_the_middle_leaves_nothing_running(data_dir: Path) -> None:
    command = [str(Path(sys.executable).parent / "tunesmith"), "demo", "--quick", "--data-dir", str(data_dir)]
    demo = subprocess.Popen(
        command,
        env={**os.environ, "TUNESMITH_CACHE_DIR": str(data_dir / "cache"), "PIP_NO_INDEX": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    eventually(lambda: (data_dir / "postgres").is_dir() or demo.poll() is not None, what="the start of PostgreSQL")
    assert demo.poll() is None, demo.communicate()[1]
    os.killpg(demo.pid, signal.SIGINT)
    told = demo.communicate(timeout=60)[1]
    assert demo.returncode == 130, told
    assert "everything is stopped" in told


def test_losses_are_the_first_and_the_last_measured() -> None:
    points = [
        MetricPoint(step=0, valid_loss=3.5),
        MetricPoint(step=1, train_loss=3.0),
        MetricPoint(step=2, valid_loss=3.0),
    ]
    measured = losses(points)
    assert measured is not None
    assert (measured.before, measured.after, measured.fell) == (3.5, 3.0, True)
    assert losses(points[:2]) is None


def test_answers_stand_side_by_side() -> None:
    example = Example(module="math", name="add", source="def add(a, b):\n    return a + b", answer="Add two numbers.")
    comparison = Comparison(example, base="It is a function that takes two arguments.", tuned="Add two numbers.")
    lines = list(side_by_side([comparison], width=60))
    assert any("base model" in line and "tuned model" in line for line in lines)
    assert any("It is a function" in line and line.endswith("Add two numbers.") for line in lines)
    assert all(len(line) <= 60 for line in lines)
