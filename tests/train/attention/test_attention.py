"""Every attention kernel computes the same: causal, within a segment, within a window, packed as alone."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.attention as attention_module
import torch.nn.attention.flex_attention as flex_module
import torch.nn.attention.varlen as varlen_module
from torch.nn.attention.flex_attention import create_block_mask
from transformers import AutoConfig, AutoModelForCausalLM

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tests.train.attention import flash_stand_in
from tunesmith.tuning.plan import Attention
from tunesmith.tuning.search.attention_kernel import CAP_SCORES, HAVE_SINKS
from tunesmith.worker.train.attention.document_mask import document_mask, first_visible
from tunesmith.worker.train.attention.kernels import KERNELS
from tunesmith.worker.train.attention.packed import segment_attention
from tunesmith.worker.train.attention.segments import Scores, Segments
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.rows import Rows, load_rows
from tunesmith.worker.train.loop.objectives import supervised
from tunesmith.worker.train.models.model import Learner, load_model, load_tokenizer, read_config

pytestmark = pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile", "ignore:The .grad attribute of a Tensor that is not a leaf"
)
CPU = torch.device("cpu")
ALL = sorted(KERNELS)
LENGTHS = [1, 170, 17, 60]
WINDOW = 12  # tokens; the rows of the tiny models are longer


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let kernels for GPUs run here: by their definition, forward and backward."""
    for module in ("flash_attn", "flash_attn_interface"):
        monkeypatch.setitem(sys.modules, module, flash_stand_in)
    monkeypatch.setattr(varlen_module, "varlen_attn", flash_stand_in.varlen_attn)
    monkeypatch.setattr(attention_module, "activate_flash_attention_impl", lambda _: None)
    # PyTorch refuses to differentiate FlexAttention on a CPU, although its own definition has a gradient there.
    monkeypatch.setattr(flex_module, "_validate_device", lambda *_: None)


def inputs(heads: tuple[int, int], *, seed: int = 0) -> list[torch.Tensor]:
    """Query, key, value and the gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    queries, keys = heads
    return [torch.randn(sum(LENGTHS), number, 16, generator=generator) for number in (queries, keys, keys, queries)]


def outcome(
    attend: Callable[..., torch.Tensor], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grad: torch.Tensor
) -> list[torch.Tensor]:
    """The output and the gradients of query, key and value."""
    leaves = [states.clone().requires_grad_() for states in (query, key, value)]
    output = attend(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def through(attention: Attention, window: int | None, **more: Any) -> Callable[..., torch.Tensor]:
    segments = Segments.of(LENGTHS, device=CPU).through(attention)
    scores = Scores(scale=0.3, window=window, **more)
    return lambda *states: segment_attention(*states, segments=segments, scores=scores)


def by_definition(window: int | None, **more: Any) -> Callable[..., torch.Tensor]:
    bounds = Segments.of(LENGTHS, device=CPU).cumulative
    sight = (-1 if window is None else window - 1, 0)
    return lambda *states: flash_stand_in.definition(*states, bounds, scale=0.3, window=sight, **more)


def assert_equal_outcomes(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * max(1.0, other.abs().max().item()))


@pytest.mark.parametrize("window", [None, 1, 40, 150])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("attention", ALL)
def test_a_kernel_computes_the_definition_forward_and_backward(
    attention: Attention, heads: tuple[int, int], window: int | None
) -> None:
    states = inputs(heads)
    assert_equal_outcomes(outcome(through(attention, window), *states), outcome(by_definition(window), *states))


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("attention", sorted(CAP_SCORES))
def test_capped_scores_follow_the_definition_forward_and_backward(attention: Attention, window: int | None) -> None:
    states, cap = [4 * part for part in inputs((6, 2))], {"softcap": 2.0}  # large enough for the cap to bend them
    wanted = outcome(by_definition(window, **cap), *states)
    assert not torch.allclose(wanted[0], by_definition(window)(*states[:3]), atol=0.01)
    assert_equal_outcomes(outcome(through(attention, window, **cap), *states), wanted)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("attention", ["flex", "sdpa", "blocked"])
def test_a_sink_takes_its_share_and_learns(attention: Attention, window: int | None, softcap: float | None) -> None:
    states, learnt = inputs((6, 2)), []
    results = []
    for attend in (through, by_definition):
        sinks = torch.linspace(-2, 2, 6).requires_grad_()
        named = {"sinks": sinks, "softcap": softcap if attend is through else softcap or 0.0}
        leaves = [part.clone().requires_grad_() for part in states[:3]]
        arguments = (attention, window) if attend is through else (window,)
        output = attend(*arguments, **named)(*leaves)
        *gradients, learned = torch.autograd.grad(output, [*leaves, sinks], states[3])
        results.append([output.detach(), *gradients])
        learnt.append(learned)
    assert_equal_outcomes(*results)
    torch.testing.assert_close(*learnt, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("attention", ["flash_attention_4", "torch_flash"])
def test_a_kernel_without_caps_refuses_rather_than_ignore_them(attention: Attention) -> None:
    with pytest.raises(NotImplementedError, match="has no capped scores"):
        through(attention, None, softcap=50.0)(*inputs((4, 2))[:3])


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("attention", ["blocked", "flex", "sdpa"])
def test_changing_one_segment_changes_no_bit_of_another(attention: Attention, window: int | None) -> None:
    before, other = inputs((6, 2)), inputs((6, 2), seed=1)
    first, end = sum(LENGTHS[:1]), sum(LENGTHS[:2])
    after = [torch.cat([old[:first], new[first:end], old[end:]]) for old, new in zip(before, other, strict=True)]

    unchanged, changed = (outcome(through(attention, window), *states) for states in (before, after))

    for one, two in zip(unchanged, changed, strict=True):
        assert torch.equal(one[:first], two[:first])
        assert torch.equal(one[end:], two[end:])
        assert not torch.equal(one[first:end], two[first:end])


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma2", "gpt_oss"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models with two heads to a key head: plain, with a window shorter than the rows, with caps, with sinks."""
    folder = build_tiny_model(tmp_path_factory.mktemp("model"), layers=1)
    if request.param != "llama":
        sizes = {name: value for name, value in read_config(folder).items() if name in SIZES}
        config = AutoConfig.for_model(request.param, **{**sizes, **PECULIAR[request.param]})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
            for name, value in model.named_parameters():
                if "proj" in name or "sinks" in name:  # large enough that a cap or a sink changes something
                    torch.nn.init.normal_(value, std=0.3)
            model.save_pretrained(folder)
    return folder


PECULIAR: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": WINDOW},
    "gemma2": {"sliding_window": WINDOW, "num_hidden_layers": 2, "head_dim": 16, "attn_logit_softcapping": 3.0},
    "gpt_oss": {"sliding_window": WINDOW, "num_hidden_layers": 2, "head_dim": 16, "num_local_experts": 2,
                "num_experts_per_tok": 1},
}  # fmt: skip


SIZES = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
}  # fmt: skip


@pytest.fixture
def rows(folder: Path, tmp_path: Path) -> Rows:
    file = runs.write_rows(tmp_path / "rows.jsonl", runs.chat_rows(5))
    rows = load_rows(file, tokenizer=load_tokenizer(folder), objective="supervised", max_sequence_length=256)
    assert rows.lengths().max() > WINDOW
    return rows


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.fixture
def alone(folder: Path, rows: Rows) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Summed loss and its gradients by the model's own forward pass, one row at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    total = torch.zeros(())
    for row in range(len(rows)):
        ((ids, marks),) = rows.sequences(row)
        tokens = torch.from_numpy(ids.astype("int64"))
        labels = torch.where(torch.from_numpy(marks), tokens, torch.tensor(-100))
        logits = model(input_ids=tokens[None]).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
    return total.detach(), gradients(model, total)


def test_packed_rows_have_the_loss_and_gradients_of_single_rows_through_every_kernel(
    folder: Path, rows: Rows, alone: tuple[torch.Tensor, dict[str, torch.Tensor]]
) -> None:
    expected, wanted = alone
    model = load_model(folder, plan=plans.plan(method="full"), device=CPU).train()
    shape = model.config
    capped, sinks = getattr(shape, "attn_logit_softcapping", None), shape.model_type == "gpt_oss"
    kernels = HAVE_SINKS | {"blocked"} if sinks else CAP_SCORES if capped else ALL
    for attention in kernels:
        model.zero_grad()
        learner = Learner(model, attention=attention)
        loss = supervised().sums(learner, pack(range(len(rows)), rows, device=CPU)).loss
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=1e-5, msg=attention)
        got = gradients(model, loss)
        assert set(got) == set(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-4, msg=f"{attention} {name}")


@pytest.mark.parametrize("window", [None, 1, 40, 128, 300])
@pytest.mark.parametrize("lengths", [[1], [128], [129], [300, 5, 128, 127, 129, 700], [7] * 60])
def test_the_block_mask_is_the_one_that_pytorch_finds_by_looking_at_every_pair(
    lengths: list[int], window: int | None
) -> None:
    first, tokens = torch.from_numpy(first_visible(lengths, window=window)), sum(lengths)
    mine = document_mask(lengths, window=window, device=CPU)
    wanted = create_block_mask(
        lambda _b, _h, q, k: (k <= q) & (k >= first[q]), None, None, tokens, tokens, device="cpu"
    )
    assert listed(mine.kv_num_blocks, mine.kv_indices) == listed(wanted.kv_num_blocks, wanted.kv_indices)
    assert listed(mine.full_kv_num_blocks, mine.full_kv_indices) == listed(
        wanted.full_kv_num_blocks, wanted.full_kv_indices
    )
    assert listed(mine.q_num_blocks, mine.q_indices) == listed(wanted.q_num_blocks, wanted.q_indices)


def listed(number: Any, indices: Any) -> list[list[int]]:
    """Key blocks of each query block, without the table's unused places."""
    return [sorted(row[:count]) for row, count in zip(indices[0, 0].tolist(), number[0, 0].tolist(), strict=True)]


def test_the_mask_is_built_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(
        "tunesmith.worker.train.attention.segments.document_mask",
        lambda lengths, *, window, device: built.append(window) or document_mask(lengths, window=window, device=device),
    )
    batch = Segments.of(LENGTHS, device=CPU)
    for window in (None, 40, None, 40):
        scores = Scores(scale=1.0, window=window)
        segment_attention(*inputs((4, 2))[:3], segments=batch.through("flex"), scores=scores)
    assert built == [None, 40]


def test_gpus_before_ampere_get_repeated_heads_and_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """There PyTorch's only kernel without stored scores takes no groups; a CPU stands in for one."""
    from tunesmith.worker.train.attention import kernels as attention_kernels

    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(9, heads, 8, generator=generator) for heads in (4, 2, 2)]
    segments = Segments.of((4, 5), device=torch.device("cpu")).through("sdpa")

    def attended(capability: tuple[int, int] | None) -> tuple[list[torch.Tensor], int]:
        monkeypatch.setattr(attention_kernels, "_capability", lambda _: capability)
        saved: set[torch.Size] = set()
        leaves = [part.clone().requires_grad_() for part in states]
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.add(t.shape) or t, lambda t: t)
        with hooks:
            output = segment_attention(*leaves, segments=segments, scores=Scores(scale=0.3, window=None))
        gradients = torch.autograd.grad(output.square().sum(), leaves)
        heads = max(shape[1] for shape in saved if len(shape) == 4)
        return [output.detach(), *gradients], heads

    (grouped, _), (repeated, heads) = attended(None), attended((7, 5))
    assert heads == 4
    for one, other in zip(grouped, repeated, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
