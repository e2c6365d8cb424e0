"""Every option changes what it says it changes: a run that ignored one would fail here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.train.adapters.adapter import attach_adapter
from tunesmith.worker.train.adapters.pissa import start_from_principal_components
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.rows import Rows, load_rows
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.kernels.loss import token_log_probabilities
from tunesmith.worker.train.loop import reference
from tunesmith.worker.train.loop.memory_ladder import MemoryLadder
from tunesmith.worker.train.loop.objectives import planned_objective, preference, supervised
from tunesmith.worker.train.loop.reference import ReferencePass
from tunesmith.worker.train.models.model import Learner, load_model, load_tokenizer
from tunesmith.worker.train.run import RunContext
from tunesmith.worker.train.session import prepare

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CPU = torch.device("cpu")
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}
PAIRS = [
    {"prompt": "one two ", "chosen": "two one", "rejected": "no no no"},
    {"prompt": "three ", "chosen": "three", "rejected": "never"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def trained(root: Path, model: Path, *, rows: Any = None, adapter_dir: str | None = None, **plan: Any) -> RunDirectory:
    changes = {"epochs": 1, **plan}
    directory = runs.make_run(
        root,
        model=model,
        plan=plans.plan(**changes),
        rows=rows,
        validation=None if rows else runs.chat_rows(6, offset=40),
        adapter_dir=adapter_dir,
    )
    assert runs.train_here(directory) == 0
    return directory


def adapter(directory: RunDirectory) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    config = json.loads((directory.output / "adapter_config.json").read_text())
    return load_file(directory.output / "adapter_model.safetensors"), config


def losses(directory: RunDirectory) -> list[float]:
    return [point["train_loss"] for point in runs.metrics(directory) if "train_loss" in point]


def adapted(model: Path, **lora: Any) -> Any:
    plan = plans.plan(lora=plans.lora(**lora))
    assert plan.lora is not None
    return attach_adapter(load_model(model, plan=plan, device=CPU), plan.lora, continue_from=None, seed=3)


def rows_of(root: Path, model: Path, rows: list[dict[str, Any]], objective: str = "supervised") -> Rows:
    file = runs.write_rows(root / "rows.jsonl", rows)
    return load_rows(file, tokenizer=load_tokenizer(model), objective=objective, max_sequence_length=256)


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        ("attention", ATTENTION),
        ("attention_mlp", ATTENTION | MLP),
        ("all-linear", ATTENTION | MLP),
        (("v_proj", "mlp.down_proj"), {"v_proj", "down_proj"}),
    ],
)
def test_targets_say_which_modules_get_an_adapter(model: Path, targets: Any, wanted: set[str]) -> None:
    found = {
        name.split(".lora_A")[0].rsplit(".", 1)[-1]
        for name, _ in adapted(model, target_modules=targets).named_parameters()
        if "lora_A" in name
    }
    assert found == wanted


@pytest.mark.parametrize(("rslora", "scale"), [(False, 8 / 4), (True, 8 / 2)])
def test_alpha_is_divided_by_the_rank_or_with_rslora_by_its_root(model: Path, rslora: bool, scale: float) -> None:
    module = adapted(model, use_rslora=rslora).base_model.model.model.layers[0].mlp.up_proj
    assert module.scaling["default"] == pytest.approx(scale)
    assert module.lora_A["default"].weight.shape[0] == 4


def test_dora_trains_a_magnitude_beside_the_direction(tmp_path: Path, model: Path) -> None:
    tensors, config = adapter(trained(tmp_path, model, lora=plans.lora(use_dora=True)))
    assert config["use_dora"] is True
    assert sum("lora_magnitude_vector" in name for name in tensors) == 2 * 7
    module = "layers.0.mlp.up_proj"
    learned = tensors[f"base_model.model.model.{module}.lora_magnitude_vector"]
    start = load_file(model / "model.safetensors")[f"model.{module}.weight"].norm(dim=1)
    assert 0 < (learned - start).abs().max() < 0.1 * start.max()


def test_pissa_starts_from_the_principal_components_and_changes_no_output(tmp_path: Path, model: Path) -> None:
    rows = rows_of(tmp_path, model, runs.chat_rows(4))
    batch = pack([0, 1, 2, 3], rows, device=CPU)
    plain = load_model(model, plan=plans.plan(), device=CPU)
    expected = supervised().sums(Learner(plain), batch).loss.item()
    started = adapted(model, init="pissa")
    before = started.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight.clone()
    start_from_principal_components(started, resume_folder=None)
    module = started.base_model.model.model.layers[0].mlp.up_proj
    first, rest = torch.linalg.svdvals(before), torch.linalg.svdvals(module.base_layer.weight)
    assert rest[0] < 1.05 * first[4]  # the four largest are in the adapter now
    assert supervised().sums(Learner(started), batch).loss.item() == pytest.approx(expected, rel=1e-4)


def test_dropout_drops_in_training_and_not_in_evaluation(tmp_path: Path, model: Path) -> None:
    batch = pack([0, 1], rows_of(tmp_path, model, runs.chat_rows(2)), device=CPU)
    learner = Learner(adapted(model, dropout=0.5))
    with torch.no_grad():
        for name, value in learner.named_parameters():
            if "lora_B" in name:
                value.normal_()
        learner.train()
        torch.manual_seed(0)
        draws = {float(supervised().sums(learner, batch).loss) for _ in range(3)}
        learner.eval()
        still = {float(supervised().sums(learner, batch).loss) for _ in range(3)}
    assert (len(draws), len(still)) == (3, 1)


def test_a_message_of_weight_zero_gives_no_loss_and_its_words_are_still_read(tmp_path: Path, model: Path) -> None:
    talk = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two three", "weight": 0},
        {"role": "user", "content": "four"},
        {"role": "assistant", "content": "five"},
    ]
    weighted = {**talk[1], "weight": 1}
    counts = []
    for second in (talk[1], weighted, {**talk[1], "content": "nine"}):
        rows = rows_of(tmp_path, model, [{"messages": [talk[0], second, *talk[2:]]}])
        learner = Learner(load_model(model, plan=plans.plan(), device=CPU).eval())
        sums = supervised().sums(learner, pack([0], rows, device=CPU))
        counts.append((int(rows.supervised_counts().sum()), sums.loss.item()))
    assert counts[0][0] < counts[1][0]  # fewer tokens are taught
    assert counts[0][0] == counts[2][0]
    assert counts[0][1] != counts[2][1]  # but what was said before is context


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize(
    "rows",
    [
        [{"text": "one two three four"}, {"text": "five six"}],
        [{"prompt": "one two ", "completion": "two one"}, {"prompt": "three ", "completion": "three"}],
        [
            {
                "messages": [
                    {"role": "user", "content": "add"},
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "1", "content": "2"},
                    {"role": "assistant", "content": "two"},
                ],
                "tools": TOOLS,
            }
        ],
    ],
    ids=["text", "completion", "tools"],
)
def test_every_kind_of_row_is_learned(tmp_path: Path, model: Path, rows: list[dict[str, Any]]) -> None:
    curve = losses(trained(tmp_path, model, rows=rows, epochs=30, learning_rate=2e-2))
    assert curve[-1] < curve[0] - 0.5


def scored(run: RunContext, learner: Learner) -> RunContext:
    """With what the model as it is thinks of each pair."""
    progress = TrainState()
    ladder = MemoryLadder(run, learner, progress=progress)
    return ReferencePass(run, learner, sharing_by_tokens, ladder, progress).over_all_rows(checkpoint=None)[0]


def sharing_by_tokens(rows: Rows) -> Sharing:
    return Sharing(rows, work=rows.lengths().astype(np.float64))


def test_beta_scales_the_gap_between_the_answers(tmp_path: Path, model: Path) -> None:
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(objective="dpo", beta=0.3), rows=PAIRS)
    learner = Learner(adapted(model))
    run = scored(prepare(directory.request(), directory), learner)
    with torch.no_grad():
        for name, value in learner.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
        batch = pack([0, 1], run.rows, device=CPU)
        assert batch.reference is not None
        per_token = learner(batch, token_log_probabilities)
        said = torch.zeros(4).index_add(0, batch.target_sequences, per_token).view(-1, 2) - batch.reference
        gap = said[:, 0] - said[:, 1]
        for beta, found in ((0.3, planned_objective(run.plan)), (0.6, preference(beta=0.6))):
            expected = -torch.nn.functional.logsigmoid(beta * gap).sum()
            torch.testing.assert_close(found.sums(learner, batch).loss, expected)


@pytest.mark.slow
def test_pairs_that_memory_cannot_hold_at_once_are_scored_in_smaller_pieces(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plans.plan(objective="dpo", beta=0.3)
    request = runs.make_run(tmp_path, model=model, plan=plan, rows=PAIRS * 4)
    run, learner = prepare(request.request(), request), Learner(adapted(model))
    wanted = scored(run, learner)
    tried: list[int] = []

    def pack_if_it_fits(*args: Any, **named: Any) -> Any:
        batch = pack(*args, **named)
        tried.append(batch.tokens)
        if batch.rows and batch.tokens > 60:
            raise torch.OutOfMemoryError("out of memory")
        return batch

    monkeypatch.setattr(reference, "pack", pack_if_it_fits)
    found = scored(run, learner)
    assert tried[0] > 60 >= tried[-1]
    assert found.rows.reference == pytest.approx(wanted.rows.reference, rel=1e-5)


def test_preferences_as_chosen_and_rejected_mean_the_same_as_the_apis_own(tmp_path: Path, model: Path) -> None:
    said = {"role": "user", "content": "one two"}
    answers = [[{"role": "assistant", "content": words}] for words in ("two one", "no")]
    api = {"input": {"messages": [said]}, "preferred_output": answers[0], "non_preferred_output": answers[1]}
    ours = {"prompt": [said], "chosen": answers[0], "rejected": "no"}
    first, second = (rows_of(tmp_path, model, [row], "dpo") for row in (api, ours))
    assert first.tokens.tolist() == second.tokens.tolist()
    assert first.supervised.tolist() == second.supervised.tolist()
    plain = rows_of(tmp_path, model, PAIRS, "dpo")
    tokenizer = load_tokenizer(model)
    told = [tokenizer.decode(ids[marks]) for ids, marks in plain.sequences(0)]
    assert told == ["two one<|im_end|>", "no no no<|im_end|>"]


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_goes_on_from_a_fully_tuned_model(tmp_path: Path, model: Path, method: str) -> None:
    first = trained(tmp_path / "first", model, method="full", epochs=3)
    second = trained(tmp_path / "second", first.output, method=method)
    said, before = second.read_result(), first.read_result()
    assert said is not None
    assert before is not None
    assert said.first_valid_loss == pytest.approx(before.final_valid_loss, rel=1e-4)
    manifest = json.loads((second.output / "manifest.json").read_text())
    of_first = json.loads((first.output / "manifest.json").read_text())
    assert manifest["base_model"]["model.safetensors"] == of_first["files"]["model.safetensors"]


@pytest.mark.slow
def test_an_adapter_goes_on_with_its_own_rank_and_the_new_dropout(tmp_path: Path, model: Path) -> None:
    first = trained(tmp_path / "first", model, lora=plans.lora(rank=2))
    second = trained(tmp_path / "second", model, lora=plans.lora(rank=2, dropout=0.2), adapter_dir=str(first.output))
    (before, _), (after, config) = adapter(first), adapter(second)
    assert (config["r"], config["lora_dropout"]) == (2, 0.2)
    assert {name: value.shape for name, value in before.items()} == {name: v.shape for name, v in after.items()}
    assert any(not torch.equal(before[name], after[name]) for name in before)
    manifest = json.loads((second.output / "manifest.json").read_text())
    of_first = json.loads((first.output / "manifest.json").read_text())
    weights = "adapter_model.safetensors"
    assert manifest["continued_from"][weights] == of_first["files"][weights]


@pytest.mark.parametrize("double", [False, True])
def test_qlora_holds_its_base_in_four_bits_and_computes_in_the_planned_precision(model: Path, double: bool) -> None:
    plan = plans.plan(method="qlora", precision="bf16", double_quantization=double)
    layer = load_model(model, plan=plan, device=CPU).model.layers[0].mlp.up_proj
    assert (layer.weight.quant_type, layer.weight.dtype) == ("nf4", torch.uint8)
    assert layer.weight.quant_state.nested is double
    assert layer.compute_dtype is torch.bfloat16
    assert layer.weight.numel() == 64 * 128 // 2  # two weights a byte
