"""Our own passes give what the libraries' modules give, in loss and in every gradient, family by family."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from tests import plans
from tests.tiny_model import build_tiny_model
from tunesmith.worker.train.adapters.adapter import attach_adapter
from tunesmith.worker.train.adapters.fuse import fuse
from tunesmith.worker.train.attention import packed
from tunesmith.worker.train.attention.segments import Segments
from tunesmith.worker.train.data.packing import PackedBatch
from tunesmith.worker.train.kernels.loss import summed_cross_entropy
from tunesmith.worker.train.models.model import Learner, enable_checkpointing, load_model

CPU = torch.device("cpu")
VOCABULARY, RANK = 61, 4
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
UNGROUPED = {**SIZES, "num_key_value_heads": 4}
MOE = {**SIZES, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WHOLE = {"norms", "layers", "mlps", "attentions", "linears"}
# What each family gets of our passes under plain adapters.
FAMILIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "llama": (SIZES, WHOLE),
    "mistral": ({**SIZES, "sliding_window": 5}, WHOLE),
    "qwen2": ({**SIZES, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}, WHOLE),
    "qwen3": ({**SIZES, "head_dim": 8}, WHOLE),
    "granite": ({**SIZES, "residual_multiplier": 0.5, "embedding_multiplier": 2.0}, WHOLE - {"layers"}),
    "gemma": ({**SIZES, "head_dim": 8}, WHOLE),
    "gemma2": ({**SIZES, "head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 2.0}, WHOLE - {"layers"}),
    "gemma3_text": ({**SIZES, "head_dim": 8, "sliding_window": 5}, WHOLE - {"layers"}),
    "smollm3": ({**SIZES, "no_rope_layers": [1, 0]}, WHOLE),
    "phi3": ({**SIZES, "resid_pdrop": 0.0}, WHOLE - {"attentions"}),
    "olmo2": (SIZES, {"norms", "mlps", "linears"}),
    "cohere": ({**SIZES, "logit_scale": 0.5}, {"mlps", "linears"}),
    "starcoder2": ({**SIZES, "sliding_window": None}, {"norms", "mlps", "attentions", "linears"}),
    "glm": ({**SIZES, "head_dim": 8}, WHOLE - {"attentions"}),
    "phi": ({**UNGROUPED, "resid_pdrop": 0.0, "embd_pdrop": 0.0}, {"norms", "mlps", "attentions", "linears"}),
    "gpt_neox": ({**UNGROUPED, "hidden_dropout": 0.0, "attention_dropout": 0.0}, {"norms", "mlps", "linears"}),
    "gpt2": (
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "attn_pdrop": 0.0,
         "resid_pdrop": 0.0, "embd_pdrop": 0.0},
        {"norms", "mlps", "linears"},
    ),
    "mixtral": (MOE, {"norms", "layers", "attentions", "linears", "experts"}),
    "qwen3_moe": ({**MOE, "head_dim": 8}, {"norms", "layers", "attentions", "linears", "experts"}),
    "gpt_oss": ({**MOE, "head_dim": 8, "sliding_window": 5}, {"norms", "linears", "experts"}),
}  # fmt: skip
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora on every other": {"use_rslora": True, "target_modules": "every other"},
    "dropout": {"dropout": 0.3},
    "dora": {"use_dora": True},
    "dora with dropout": {"use_dora": True, "dropout": 0.3},
}
MODES = ("none", "selective", "mlp", "full")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def base(family: str) -> nn.Module:
    return random_model(family)


def random_model(family: str) -> nn.Module:
    """Weights that are neither zero nor one, so that nothing cancels out."""
    packed.register()
    config = AutoConfig.for_model(family, **FAMILIES[family][0])
    config.use_cache = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=packed.PACKED)
        for name, value in model.named_parameters():
            nn.init.normal_(value, mean=1.0 if "norm" in name else 0.0, std=0.2)
    return model


def adapted(base: nn.Module, **changes: Any) -> nn.Module:
    if changes.get("target_modules") == "every other":
        names = {name.rsplit(".", 1)[-1] for name, _ in base.named_modules() if "proj" in name or "dense" in name}
        changes["target_modules"] = tuple(sorted(names or {"c_attn", "c_fc"})[::2])
    lora = plans.lora(**changes)
    return with_something_learnt(attach_adapter(copy.deepcopy(base), lora, continue_from=None, seed=3))


def with_something_learnt(model: nn.Module) -> nn.Module:
    """B starts at zero, which would hide the gradient of A."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return model


def batch() -> PackedBatch:
    lengths = [9, 1, 14]
    tokens = torch.randint(3, VOCABULARY, (1, sum(lengths)), generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([0, 3, 7, 9, 12, 20, 22])
    return PackedBatch(
        input_ids=tokens,
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        target_positions=targets,
        labels=tokens[0, targets + 1],
        target_sequences=torch.zeros_like(targets),
        segments=Segments.of(lengths, device=CPU),
        rows=(0,),
    )


def outcome(model: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    learner = Learner(model).train()
    torch.manual_seed(11)
    loss = learner(batch(), summed_cross_entropy).loss
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def assert_same(found: tuple[Any, dict[str, Any]], wanted: tuple[Any, dict[str, Any]]) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-6)
    assert set(found[1]) == set(wanted[1])
    for name, value in wanted[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=2e-5 * (1 + value.abs().max()), msg=name)


@pytest.mark.mostly_slow(rows=26)
@pytest.mark.parametrize("changes", ADAPTERS.values(), ids=ADAPTERS)
def test_adapters_learn_what_they_learn_in_pefts_own_modules(base: nn.Module, family: str, changes: Any) -> None:
    plain, ours = adapted(base, **changes), adapted(base, **changes)
    done = fuse(ours)
    if not changes:
        assert set(done) == FAMILIES[family][1]
    if "mlps" in done or not changes:
        assert done["linears"] == sum(hasattr(module, "lora_A") for module in ours.modules())
    assert_same(outcome(ours), outcome(plain))


@pytest.mark.mostly_slow(rows=2)
@pytest.mark.parametrize("changes", ADAPTERS.values(), ids=ADAPTERS)
def test_adapters_over_four_bit_weights_learn_what_they_learn_in_pefts_own_modules(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    folder = build_tiny_model(tmp_path_factory.mktemp("four-bit"), vocabulary_size=512)
    plan = plans.plan(method="qlora", lora=plans.lora(**changes | {"target_modules": "all-linear"}))
    models = []
    for _ in range(2):
        model = load_model(folder, plan=plan, device=CPU)
        models.append(with_something_learnt(attach_adapter(model, plan.lora, continue_from=None, seed=3)))
    assert fuse(models[1])["linears"] == 2 * 7
    assert_same(outcome(models[1]), outcome(models[0]))


@pytest.mark.parametrize("mode", MODES)
def test_full_fine_tuning_learns_what_it_learns_in_the_librarys_modules(base: nn.Module, mode: str) -> None:
    plain, ours = copy.deepcopy(base).requires_grad_(True), copy.deepcopy(base).requires_grad_(True)
    fuse(ours)
    enable_checkpointing(ours, mode)
    assert_same(outcome(ours), outcome(plain))


@pytest.mark.mostly_slow(rows=12)
@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("changes", [{}, {"use_dora": True, "dropout": 0.3}], ids=["plain", "dora with dropout"])
def test_recomputing_changes_no_gradient(base: nn.Module, changes: dict[str, Any], mode: str) -> None:
    found = []
    for checkpointing in ("none", mode):
        model = adapted(base, **changes)
        fuse(model)
        enable_checkpointing(model, checkpointing)
        found.append(outcome(model))
    assert_same(*found)


class Products(TorchDispatchMode):
    """Counts matrix products without those of adapters, which are no wider than three ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name()
        if name in ("aten::mm", "aten::addmm", "aten::addmm_", "aten::linear"):
            factors = [value for value in args if isinstance(value, torch.Tensor) and value.dim() == 2][-2:]
            self.wide += min(min(factor.shape) for factor in factors) > 3 * RANK
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("mode", "again"), [("none", 0), ("selective", 0), ("mlp", 2), ("full", 7)])
def test_of_the_seven_products_of_a_layer_only_those_that_a_mode_names_are_made_again(mode: str, again: int) -> None:
    counts = {}
    for checkpointing in ("none", mode):
        model = adapted(_model())
        fuse(model)
        enable_checkpointing(model, checkpointing)
        with Products() as products:
            outcome(model)
        counts[checkpointing] = products.wide
    assert counts[mode] - counts["none"] == again * SIZES["num_hidden_layers"]


def _model() -> nn.Module:
    packed.register()
    config = AutoConfig.for_model("llama", **SIZES)
    return AutoModelForCausalLM.from_config(config, attn_implementation=packed.PACKED)


def test_a_family_whose_code_differs_keeps_its_own_passes() -> None:
    class OtherNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * x / (x.abs().mean(-1, keepdim=True) + self.eps)

    class OtherMlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
            self.act_fn = nn.SiLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x) + self.up_proj(x)))

    assert fuse(nn.ModuleList([OtherNorm(), OtherMlp()])) == {}


def test_looking_for_our_passes_draws_no_random_number(base: nn.Module) -> None:
    model, before = copy.deepcopy(base), torch.random.get_rng_state()
    fuse(model)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about tiny configs
        yield
