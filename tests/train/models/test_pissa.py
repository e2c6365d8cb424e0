"""PiSSA over weights of either layout: the principal part moves into the adapter, and comes back as a plain one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.worker.train.adapters.adapter import attach_adapter
from tunesmith.worker.train.adapters.pissa import start_from_principal_components
from tunesmith.worker.train.adapters.twins import is_conv1d
from tunesmith.worker.train.models.model import load_model, load_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CPU = torch.device("cpu")
RANK = 4
IDS = torch.randint(3, 500, (2, 24), generator=torch.Generator().manual_seed(1))


def build_gpt2(folder: Path) -> Path:
    """Its linear layers are Conv1D: [in, out], square and oblong."""
    build_tiny_model(folder)
    config = GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


BUILDERS = {"gpt2": build_gpt2, "llama": build_tiny_model}


@pytest.fixture(scope="module", params=BUILDERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_gpt2(tmp_path_factory.mktemp("only-gpt2"))


def adapted(folder: Path, **lora: Any) -> PeftModel:
    plan = plans.plan(lora=plans.lora(init="pissa", **{"rank": RANK, **lora}))
    assert plan.lora is not None
    return attach_adapter(load_model(folder, plan=plan, device=CPU), plan.lora, continue_from=None, seed=3)


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    """Of the plain attention: rows here are not packed."""
    model.config._attn_implementation = "sdpa"
    made: torch.Tensor = model.eval()(input_ids=IDS).logits
    return made


def matrices(model: PeftModel) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Of each adapted layer, as [out, in]: the weight under the adapter, and what the adapter adds to it."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            base = module.base_layer.weight.detach().clone()
            change = module.lora_B["default"].weight @ module.lora_A["default"].weight * module.scaling["default"]
            found[name] = base.T if is_conv1d(module.base_layer) else base, change.detach()
    return found


@pytest.mark.parametrize("rank", [RANK, 48], ids=["a few components", "more than a matrix has"])
def test_the_start_changes_no_output(model: Path, rank: int) -> None:
    expected = logits(load_model(model, plan=plans.plan(), device=CPU))
    started = adapted(model, rank=rank)
    start_from_principal_components(started, resume_folder=None)
    torch.testing.assert_close(logits(started), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("rslora", [False, True])
def test_the_adapter_holds_the_largest_singular_values_of_every_layer(model: Path, rslora: bool) -> None:
    started = adapted(model, use_rslora=rslora)
    before = {name: base for name, (base, _) in matrices(started).items()}
    start_from_principal_components(started, resume_folder=None)
    for name, (rest, principal) in matrices(started).items():
        values = torch.linalg.svdvals(before[name])
        found = torch.linalg.svdvals(principal)
        torch.testing.assert_close(found[:RANK], values[:RANK], rtol=0.02, atol=0)
        assert found[RANK:].max() < 1e-5
        assert torch.linalg.svdvals(rest)[0] < 1.02 * values[RANK], name
    assert any(is_conv1d(module) for module in started.modules()) == ("gpt2" in str(model))


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize("rslora", [False, True])
def test_what_conv1d_layers_learned_is_a_plain_adapter_of_the_plain_base(
    tmp_path: Path, gpt2: Path, rslora: bool
) -> None:
    plan = plans.plan(lora=plans.lora(init="pissa", use_rslora=rslora), epochs=4, evaluation_interval_steps=100)
    directory = runs.make_run(tmp_path, model=gpt2, plan=plan, validation=runs.chat_rows(6, offset=40))
    assert runs.train_here(directory) == 0, runs.events(directory)
    result = directory.read_result()
    assert result is not None
    assert result.final_valid_loss is not None
    assert result.first_valid_loss is not None
    assert result.final_valid_loss < result.first_valid_loss - 0.1
    config = json.loads((directory.output / "adapter_config.json").read_text())
    assert (config["r"], config["fan_in_fan_out"]) == (8, True)
    base = AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, directory.output)
    assert validation_loss(tuned, gpt2, runs.chat_rows(6, offset=40)) == pytest.approx(
        result.final_valid_loss, rel=1e-4
    )


@torch.no_grad()
def validation_loss(model: nn.Module, folder: Path, rows: list[dict[str, Any]]) -> float:
    """Per token of the assistant's, one row at a time, by transformers and PEFT alone."""
    tokenizer = load_tokenizer(folder)
    total, tokens = 0.0, 0
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["messages"][:1], tokenize=False, add_generation_prompt=True)
        answer = f"{row['messages'][1]['content']}<|im_end|>"
        start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        ids = torch.tensor([tokenizer(prompt + answer, add_special_tokens=False).input_ids])
        said = model.eval()(input_ids=ids).logits[0, start - 1 : -1]
        total += float(nn.functional.cross_entropy(said, ids[0, start:], reduction="sum"))
        tokens += ids.shape[1] - start
    return total / tokens
