"""Every family is trained as its own class computes it: packed where that changes nothing, else one row at a time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from benchmarks.families.sweep import TOLERANCE, sweep
from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.models.model import Learner, load_model
from tunesmith.worker.train.models.model_trial import try_model
from tunesmith.worker.train.profiling.shape import measure_shape

CPU = torch.device("cpu")


@pytest.mark.mostly_slow(rows=4)
@pytest.mark.parametrize(
    "family", ["llama", "gemma3", "mistral3", "qwen3_moe", "deepseek_v3", "gpt2", "olmo3", "cohere2", "phimoe"]
)
def test_rows_are_packed_where_packing_changes_nothing(family: str) -> None:
    found = sweep(family)
    assert found.outcome == "packed", found


@pytest.mark.mostly_slow(rows=2)
@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("bloom", "changes with what comes after it"),
        ("xglm", "changes with what comes after it"),
        ("gpt_neox_japanese", "changes with what comes after it"),
        ("lfm2", "Install `causal_conv1d`"),
        ("recurrent_gemma", "changes with the rows before it"),
        ("qwen3_5_text", "it does not take packed rows"),
        ("bamba", "it does not take packed rows"),
        ("stablelm", "it does not take packed rows"),
        ("falcon", "it does not take packed rows"),
        ("doge", "a weight that learns from rows alone does not packed"),
    ],
)
def test_families_that_cannot_be_packed_train_right_one_row_at_a_time(family: str, reason: str) -> None:
    found = sweep(family)
    assert found.outcome == "unpacked", found
    assert reason in found.note


@pytest.mark.parametrize(
    ("family", "reason"),
    [("bert", "see the tokens after them"), ("prophetnet", "output head"), ("reformer", "No gradient")],
)
def test_what_cannot_be_trained_right_is_refused_with_a_reason(family: str, reason: str) -> None:
    found = sweep(family)
    assert found.outcome == "refused", found
    assert reason in found.note
    assert found.planned is not None
    assert found.planned.reason in found.note, "the planner refuses it with other words"


def rows_of(*lengths: int, vocabulary: int = 500) -> Rows:
    generator = np.random.default_rng(3)
    return Rows(
        tokens=generator.integers(3, vocabulary, sum(lengths)).astype(np.int32),
        supervised=np.ones(sum(lengths), dtype=bool),
        offsets=np.cumsum([0, *lengths]).astype(np.int64),
        line_numbers=np.arange(1, len(lengths) + 1),
    )


def with_rope(folder: Path, **parameters: Any) -> Path:
    build_tiny_model(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"rope_parameters": {"rope_theta": 10000.0, **parameters}, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


LONG_ROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 16,
    "factor": 4.0,
    "short_factor": [1.0] * 8,
    "long_factor": [8.0] * 8,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}


@pytest.mark.parametrize("parameters", [LONG_ROPE, DYNAMIC], ids=["long rope", "dynamic"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "one by one"])
def test_angles_of_a_row_depend_on_its_own_length_alone(
    tmp_path: Path, parameters: dict[str, Any], packed: bool
) -> None:
    folder = with_rope(tmp_path / "model", **parameters)
    learner = Learner(load_model(folder, plan=plans.plan(method="full"), device=CPU)).eval()
    if not packed:
        learner.attend_alone("eager")
    rows = rows_of(9, 90, 12, 70, 5)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        together = learner.hidden_states(pack(range(5), rows, device=CPU)).split([8, 89, 11, 69, 4])
        for row, states in enumerate(together):
            ((ids, _),) = rows.sequences(row)
            fresh = type(plain)(plain.config).eval()  # dynamic scaling remembers the longest row that it has seen
            fresh.load_state_dict(plain.state_dict())
            alone = fresh.model(torch.from_numpy(ids.astype("int64"))[None]).last_hidden_state[0, :-1]
            torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-5)


def test_the_kernels_of_recurrent_layers_are_told_where_rows_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins that heed the bounds, as the packages for GPUs do, Qwen3.5's linear attention can be packed."""
    from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen

    delta_rule, convolution = qwen.torch_chunk_gated_delta_rule, qwen.causal_conv1d_fn

    def by_bounds(query: Any, key: Any, value: Any, *, g: Any, beta: Any, cu_seqlens: Any, **named: Any) -> Any:
        named.pop("seq_idx", None)
        if cu_seqlens is None:
            return delta_rule(query, key, value, g=g, beta=beta, **named)
        lengths = cu_seqlens.diff().tolist()
        split = [states.split(lengths, dim=1) for states in (query, key, value, g, beta)]
        parts = [delta_rule(q, k, v, g=gate, beta=rate, **named)[0] for q, k, v, gate, rate in zip(*split, strict=True)]
        return torch.cat(parts, dim=1), None

    def by_index(states: Any, *args: Any, seq_idx: Any = None, activation: Any = None, **_: Any) -> Any:
        lengths = (
            [states.shape[2]] if seq_idx is None else torch.unique_consecutive(seq_idx, return_counts=True)[1].tolist()
        )
        return torch.cat(
            [convolution(part, *args, activation=activation) for part in states.split(lengths, dim=2)], dim=2
        )

    monkeypatch.setattr(qwen, "torch_chunk_gated_delta_rule", by_bounds)
    monkeypatch.setattr(qwen, "causal_conv1d_fn", by_index)
    found = sweep("qwen3_5_text")
    assert found.attention is None, "packed"
    assert found.difference is not None
    assert found.difference < TOLERANCE


def test_published_dropouts_are_off_in_training_and_back_in_the_result(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "model")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=256, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    run = runs.make_run(tmp_path / "run", model=folder, plan=plans.plan(method="full", total_steps=1, epochs=1))
    assert runs.train_here(run) == 0, runs.events(run)
    told = [event["message"] for event in runs.events(run)]
    assert any("attn_pdrop 0.1" in message for message in told)
    stored = json.loads((run.output / "config.json").read_text())
    assert (stored["attn_pdrop"], stored["resid_pdrop"], stored["embd_pdrop"]) == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("planned", [True, False])
def test_a_run_says_that_rows_go_one_by_one_and_its_result_is_right(tmp_path: Path, planned: bool) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    folder = build_tiny_model(tmp_path / "model")
    torch.manual_seed(0)
    BloomForCausalLM(BloomConfig(vocab_size=512, hidden_size=64, n_layer=2, n_head=4)).save_pretrained(folder)
    plan = plans.plan(epochs=4, learning_rate=1e-2, packing=not planned)
    shape = measure_shape(json.loads((folder / "config.json").read_text()))
    held_out = runs.chat_rows(6, offset=50)
    run = runs.make_run(tmp_path / "run", model=folder, plan=plan, validation=held_out, measured_shape=shape)
    assert runs.train_here(run) == 0, runs.events(run)
    (told,) = [event for event in runs.events(run) if event["data"].get("packing") is False]
    assert told["level"] == ("info" if planned else "warn")
    assert ("as planned" if planned else "longer than the plan says") in told["message"]
    losses = [point["valid_loss"] for point in runs.metrics(run) if point["valid_loss"] is not None]
    assert losses[-1] < losses[0] - 0.1
    assert all(0 < point["mfu"] < 1 for point in runs.metrics(run)[1:]), "a measured family's operations are counted"


@pytest.mark.slow
def test_adapters_that_a_model_goes_around_are_told_of(tmp_path: Path) -> None:
    from transformers import JambaConfig

    from benchmarks.families.tiny import tiny_config

    config = tiny_config("jamba")
    assert isinstance(config, JambaConfig)
    found = sweep("jamba")
    assert "idle: dt_proj" in found.note


def test_the_trial_draws_no_random_number_of_the_run(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "model")
    learner = Learner(load_model(folder, plan=plans.plan(method="full"), device=CPU)).train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trial = try_model(learner, device=CPU, vocabulary=512)
    assert trial.packs
    assert torch.equal(torch.rand(3), expected)
    assert learner.training
