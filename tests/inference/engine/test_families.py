"""Model families: who is computed in parts as by its own class, and who is refused before anybody asks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.tuning.errors import JobFailure
from tunesmith.worker.inference.engine.compute.cache import BLOCK_TOKENS, KeyValueCache
from tunesmith.worker.inference.engine.compute.model import BatchModel, Block, Row

pytestmark = pytest.mark.filterwarnings("ignore")
SIZES = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}


def build(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **changes})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.mostly_slow(rows=4)
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
        ("mistral", {"sliding_window": 40}),
        ("gemma2", {"head_dim": 8, "sliding_window": 40, "query_pre_attn_scalar": 8}),
        ("gemma3_text", {"head_dim": 8, "sliding_window": 40}),
        ("phi3", {}),
        ("granite", {"logits_scaling": 3.0}),
        ("olmo2", {}),
        ("gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 512, "num_key_value_heads": 4}),
        ("gpt_neox", {"num_key_value_heads": 4}),
    ],
)
def test_a_family_writes_what_its_own_class_generates(family: str, changes: dict[str, Any]) -> None:
    model = build(family, **changes)
    prompt = torch.randint(3, 200, (70,), generator=torch.Generator().manual_seed(1)).tolist()
    ids = torch.tensor([prompt])
    expected = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
    )[0, len(prompt) :].tolist()
    engine = BatchModel(model, folder=Path("/nowhere"))
    cache = KeyValueCache(engine.shape, tokens=len(prompt) + 12)
    starts = range(0, len(prompt), BLOCK_TOKENS)
    blocks = [Block(prompt[at : at + BLOCK_TOKENS], cache, None, is_last=at == starts[-1]) for at in starts]
    written = [int(engine.compute([], blocks).argmax())]
    while len(written) < 12:
        written.append(int(engine.compute([Row(written[-1], cache, None)], []).argmax()))
    assert written == expected


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mamba", {}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}}),
    ],
)
def test_a_family_that_cannot_be_computed_in_parts_is_refused(family: str, changes: dict[str, Any]) -> None:
    with pytest.raises(JobFailure) as caught:
        BatchModel(build(family, **changes), folder=Path("/nowhere"))
    assert caught.value.failure.code == "model_not_supported"
    assert "vLLM" in (caught.value.failure.hint or "")
