"""Every attention kernel computes the same: causal, within a segment, within a window, packed as alone."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as flex_module
import torch.nn.attention.varlen as varlen_module
from torch.nn.attention.flex_attention import create_block_mask
from transformers import AutoModelForCausalLM
from transformers.models.mistral.configuration_mistral import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralForCausalLM

from tests.tiny_model import build_tiny_model
from tests.train import flash_stand_in, runs
from tuning.plan import Attention
from worker.train.data.packing import pack
from worker.train.data.rows import Rows, load_rows
from worker.train.kernels.attention import segment_attention
from worker.train.kernels.attention_kernels import KERNELS
from worker.train.kernels.document_mask import document_mask, first_visible
from worker.train.kernels.segments import Segments
from worker.train.loop.objectives import supervised
from worker.train.models.model import Learner, load_model, load_tokenizer, read_config

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


def through(attention: Attention, window: int | None) -> Callable[..., torch.Tensor]:
    segments = Segments.of(LENGTHS, device=CPU).through(attention)
    return lambda *states: segment_attention(*states, segments=segments, scale=0.3, window=window)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("attention", ALL)
def test_a_kernel_computes_the_definition_forward_and_backward(
    attention: Attention, heads: tuple[int, int], window: int | None
) -> None:
    states = inputs(heads)
    bounds = Segments.of(LENGTHS, device=CPU).cumulative
    sight = (-1 if window is None else window - 1, 0)

    wanted = outcome(lambda *parts: flash_stand_in.definition(*parts, bounds, scale=0.3, window=sight), *states)
    got = outcome(through(attention, window), *states)

    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


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


@pytest.fixture(scope="module", params=["grouped heads", "sliding window"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama, and a tiny Mistral whose window is shorter than the rows; both have two heads to a key head."""
    folder = build_tiny_model(tmp_path_factory.mktemp("model"), layers=1)
    if request.param == "sliding window":
        sizes = {name: value for name, value in read_config(folder).items() if name in SIZES}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            MistralForCausalLM(MistralConfig(**sizes, sliding_window=WINDOW)).save_pretrained(folder)
    return folder


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
    model = load_model(folder, plan=runs.plan(method="full"), device=CPU).train()
    for attention in ALL:
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
        "worker.train.kernels.document_mask.document_mask",
        lambda lengths, *, window, device: built.append(window) or document_mask(lengths, window=window, device=device),
    )
    batch = Segments.of(LENGTHS, device=CPU)
    for window in (None, 40, None, 40):
        segment_attention(*inputs((4, 2))[:3], segments=batch.through("flex"), scale=1.0, window=window)
    assert built == [None, 40]
