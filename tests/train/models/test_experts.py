"""The experts of a mixture as targets of adapters: what learns, what is written, what is refused."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tests.train.models.test_fused_families import MODES, MOE, adapted, assert_same, outcome, random_model
from tunesmith.tuning.job import JobSpec
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import EXIT_STOPPED, RunDirectory
from tunesmith.worker.train.adapters.adapter import attach_adapter, trainable_parameters
from tunesmith.worker.train.adapters.fuse import fuse
from tunesmith.worker.train.kernels import grouped
from tunesmith.worker.train.kernels.grouped import Groups
from tunesmith.worker.train.models.model import enable_checkpointing, load_model
from tunesmith.worker.train.profiling.shape import measure_shape

CPU = torch.device("cpu")
EXPERTS = "all-linear+experts"
WEIGHTS = "adapter_model.safetensors"
MIXTURES = ("mixtral", "qwen3_moe")
OF_A_FILE = {**MOE, "vocab_size": 512, "max_position_embeddings": 2048}


@pytest.fixture(params=[*MIXTURES, "gpt_oss"])
def base(request: pytest.FixtureRequest) -> nn.Module:
    return random_model(request.param)


@pytest.fixture(scope="module", params=MIXTURES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_tiny_model(tmp_path_factory.mktemp(request.param))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = AutoConfig.for_model(request.param, **OF_A_FILE)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def trained(root: Path, model: Path, *, merge: bool = False, **changes: Any) -> RunDirectory:
    plan = plans.plan(**{"lora": plans.lora(target_modules=EXPERTS), **changes})
    directory = runs.make_run(root, model=model, plan=plan, validation=runs.chat_rows(5, offset=50))
    if merge:
        request = directory.request().model_copy(update={"spec": JobSpec(model="tiny", seed=plan.seed, merge=True)})
        directory = RunDirectory(root / "merged-run")
        directory.create(request)
    assert runs.train_here(directory) == 0, directory.read_result()
    return directory


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=torch.arange(5, 45)[None]).logits


def told(directory: RunDirectory) -> tuple[str, str, str]:
    assert runs.train_here(directory) != 0
    failure = directory.read_result().failure
    return failure.code, failure.param, f"{failure.message} {failure.hint}"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}, {"rank": 3}], ids=str)
def test_experts_learn_what_they_learn_in_pefts_own_modules(
    base: nn.Module, changes: dict[str, Any], mode: str
) -> None:
    plain, ours = (adapted(base, target_modules=EXPERTS, **changes) for _ in range(2))
    assert fuse(ours)["experts"] == 2
    enable_checkpointing(ours, mode)
    found, wanted = outcome(ours), outcome(plain)
    assert_same(found, wanted)
    on_experts = [name for name in wanted[1] if "experts" in name]
    assert len(on_experts) == 2 * 4
    for name in on_experts:
        assert wanted[1][name].abs().max() > 0
        error = (found[1][name] - wanted[1][name]).abs().max() / wanted[1][name].abs().max()
        assert error < 1e-5, name


def test_only_adapters_learn(base: nn.Module) -> None:
    ours = adapted(base, target_modules=EXPERTS)
    before = {name: value.clone() for name, value in ours.named_parameters() if not value.requires_grad}
    fuse(ours)
    assert all("lora_" in name for name in outcome(ours)[1])
    assert all(torch.equal(value, before[name]) for name, value in ours.named_parameters() if name in before)


def test_an_expert_that_no_token_is_sent_to_learns_nothing(base: nn.Module) -> None:
    ours = adapted(base, target_modules=EXPERTS)
    router = next(module for name, module in ours.named_modules() if name.endswith(("mlp.gate", "mlp.router")))
    with torch.no_grad():
        router.weight[3] = 0  # a score of zero beside those of both signs can still be chosen: push it down
        router.weight[:3] = 0
        if getattr(router, "bias", None) is not None:
            router.bias.copy_(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    fuse(ours)
    gradients = outcome(ours)[1]
    name = next(name for name in gradients if "layers.0" in name and "experts.base_layer.lora_A" in name)
    rows = gradients[name].view(4, -1).abs().amax(dim=1)
    assert (rows > 0).sum() == 2


def test_experts_that_only_one_matrix_of_is_adapted_keep_pefts_own_pass(base: nn.Module) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=[], target_parameters=["experts.down_proj"], init_lora_weights=False)
    plain, ours = (get_peft_model(copy.deepcopy(base), config) for _ in range(2))
    ours.load_state_dict(plain.state_dict())
    assert "experts" not in fuse(ours)
    assert_same(outcome(ours), outcome(plain))


@pytest.mark.parametrize("family", [*MIXTURES, "qwen2_moe", "gpt_oss", "olmoe", "deepseek_v3"])
def test_the_planner_counts_the_adapters_of_experts_exactly(family: str) -> None:
    sizes = {**MOE, "head_dim": 8, "shared_expert_intermediate_size": 24, "mlp_only_layers": [1], "n_routed_experts": 4}
    sizes |= {"num_hidden_layers": 3, "qk_rope_head_dim": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    config = {"model_type": family, **sizes}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        learning = trainable_parameters(
            attach_adapter(model, plans.lora(target_modules=EXPERTS, rank=5), continue_from=None, seed=0)
        )
    known = family in (*MIXTURES, "qwen2_moe")
    shape = ModelShape.from_config(config) if known else measure_shape(config)
    assert shape.adapter_parameters(rank=5, targets=EXPERTS) == learning
    assert learning > shape.adapter_parameters(rank=5, targets="all-linear")


@pytest.mark.mostly_slow(rows=1)
def test_the_file_loads_with_plain_peft_and_says_the_same(tmp_path: Path, model: Path) -> None:
    directory = trained(tmp_path, model)
    plan = directory.request().plan
    ours = load_model(model, plan=plan, device=CPU)
    ours.set_attn_implementation("eager")
    before = logits(ours)
    ours = attach_adapter(ours, plan.lora, continue_from=directory.output, seed=0)
    assert fuse(ours)["experts"] == 2
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), directory.output)
    torch.testing.assert_close(logits(ours), logits(plain), rtol=1e-5, atol=1e-5)
    assert (logits(ours) - before).abs().max() > 1e-2
    config = json.loads((directory.output / "adapter_config.json").read_text())
    assert len(config["target_parameters"]) == 2 * 2


@pytest.mark.mostly_slow(rows=1)
def test_the_merged_model_says_what_base_and_adapter_say(tmp_path: Path, model: Path) -> None:
    directory = trained(tmp_path, model, merge=True)
    merged = AutoModelForCausalLM.from_pretrained(directory.output / "merged")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), directory.output)
    torch.testing.assert_close(logits(merged), logits(plain), rtol=1e-4, atol=1e-4)


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_stopping_and_going_on_changes_no_bit(tmp_path: Path, model: Path, method: str) -> None:
    changes = {"method": method, "precision": "bf16", "checkpoint_interval_steps": 2}
    alone = trained(tmp_path / "alone", model, **changes)
    plan = plans.plan(lora=plans.lora(target_modules=EXPERTS), **changes)
    disturbed = runs.make_run(tmp_path / "disturbed", model=model, plan=plan, validation=runs.chat_rows(5, offset=50))
    disturbed.stop.touch()
    assert runs.train_here(disturbed) == EXIT_STOPPED
    disturbed.stop.unlink()
    assert runs.train_here(disturbed) == 0
    assert sha256_of(disturbed.output / WEIGHTS) == sha256_of(alone.output / WEIGHTS)


@pytest.mark.mostly_slow(rows=1)
def test_a_job_can_go_on_from_an_adapter_with_experts(tmp_path: Path, model: Path) -> None:
    first = trained(tmp_path / "first", model)
    again = runs.make_run(
        tmp_path / "again",
        model=model,
        plan=first.request().plan,
        validation=runs.chat_rows(5, offset=50),
        adapter_dir=str(first.output),
    )
    assert runs.train_here(again) == 0
    assert again.read_result().first_valid_loss == pytest.approx(first.read_result().final_valid_loss, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"dropout": 0.1}, "dropout"), ({"use_dora": True}, "use_dora"), ({"init": "pissa"}, "init")],
)
def test_what_does_not_go_with_experts_is_refused(
    tmp_path: Path, model: Path, changes: dict[str, Any], param: str
) -> None:
    plan = plans.plan(lora=plans.lora(target_modules=EXPERTS, **changes))
    code, blamed, text = told(runs.make_run(tmp_path, model=model, plan=plan))
    assert (code, blamed) == ("experts_cannot_learn", f"tunesmith.lora.{param}")
    assert f"Leave {param} at its default" in text


def test_a_model_without_experts_is_refused(tmp_path: Path) -> None:
    plan = plans.plan(lora=plans.lora(target_modules=EXPERTS))
    dense = build_tiny_model(tmp_path / "dense")
    code, param, text = told(runs.make_run(tmp_path, model=dense, plan=plan))
    assert (code, param) == ("experts_cannot_learn", "tunesmith.lora.target_modules")
    assert "This model has no experts" in text


@pytest.mark.parametrize(
    "changes", [{"zero_stage": 3, "world_size": 2}, {"method": "qlora", "sharded_base": True, "world_size": 2}]
)
def test_shared_out_weights_are_refused(tmp_path: Path, model: Path, changes: dict[str, Any]) -> None:
    pytest.importorskip("deepspeed")
    plan = plans.plan(lora=plans.lora(target_modules=EXPERTS), **changes)
    code, param, text = told(runs.make_run(tmp_path, model=model, plan=plan))
    assert (code, param) == ("sharding_not_available", "tunesmith.lora.target_modules")
    assert "need the experts whole" in text


@pytest.mark.parametrize("counts", [[3, 0, 4], [0, 0, 7], [7, 0, 0], [0, 0, 0]])
def test_grouped_products_are_those_of_each_group(counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, matrices = torch.randn(sum(counts), 5, generator=generator), torch.randn(3, 5, 4, generator=generator)
    other = torch.randn(sum(counts), 4, generator=generator)
    numbers = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    groups = Groups.of(numbers, count=3, dtype=rows.dtype)
    products = torch.einsum("ni,nio->no", rows, matrices[numbers])
    torch.testing.assert_close(grouped.product(rows, matrices, groups), products)
    outers = [rows[numbers == number].T @ other[numbers == number] for number in range(3)]
    torch.testing.assert_close(grouped.outer(rows, other, groups), torch.stack(outers))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about tiny configs
        yield
