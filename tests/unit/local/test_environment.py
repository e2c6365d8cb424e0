"""What the processes of the stack inherit, and what they must not."""

import importlib.util
from pathlib import Path

from tests.stack.stand_in_engine import in_place_of_vllm
from tunesmith.local.up.environment import base, has_engine
from tunesmith.local.up.strays import MARK


def test_settings_pass_and_secrets_and_foreign_databases_do_not(tmp_path: Path) -> None:
    shell = {
        "PATH": "/usr/bin",
        "HOME": "/home/somebody",
        "TUNESMITH_LEASE_SECONDS": "5",
        "CUDA_VISIBLE_DEVICES": "0",
        "DATABASE_URL": "postgresql://production/db",
        "PGPORT": "6000",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "OPENAI_API_KEY": "secret",
        "TUNESMITH_API_KEY": "secret",
        "HF_TOKEN": "secret",
    }
    chosen = base(shell, data_dir=tmp_path)
    assert chosen["TUNESMITH_LEASE_SECONDS"] == "5"
    assert chosen["CUDA_VISIBLE_DEVICES"] == "0"
    assert "secret" not in chosen.values()
    assert not {"DATABASE_URL", "PGPORT"} & chosen.keys()
    assert chosen[MARK] == str(tmp_path.resolve())


def test_a_machine_serves_where_it_finds_an_engine(tmp_path: Path) -> None:
    own = importlib.util.find_spec("tunesmith.worker.inference.engine") is not None
    assert has_engine({"PATH": str(tmp_path)}) is own
    assert has_engine({"PATH": str(tmp_path), "TUNESMITH_INFERENCE_ENGINE_URL": "http://gpu:8000"})
    in_place_of_vllm(tmp_path)
    assert has_engine({"PATH": str(tmp_path)})
