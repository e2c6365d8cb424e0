"""A GGUF file made from a model folder: read back, it says what the model says, or it is not there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny_model import CHAT_TEMPLATE, build_tiny_model
from tunesmith.worker.train.export import write_gguf
from tunesmith.worker.train.export.merge_folders import computing_in_fp32, token_log_probabilities


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_the_file_says_what_the_model_says(model: Path, tmp_path: Path, kind: str) -> None:
    told = write_gguf.write(model, tmp_path / "model.gguf", kind=kind)
    assert told["mean_difference_nats"] <= told["tolerance_nats"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_words_merges_and_chat_template_are_in_the_file(model: Path, tmp_path: Path) -> None:
    write_gguf.write(model, tmp_path / "model.gguf", kind="f16")
    fields = GGUFReader(tmp_path / "model.gguf").fields
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert [tokens[number] for number in vocabulary["vocab"].values()] == list(vocabulary["vocab"])
    assert len(fields["tokenizer.ggml.merges"].contents()) == len(vocabulary["merges"])
    assert fields["tokenizer.chat_template"].contents() == CHAT_TEMPLATE
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama3"])
def test_other_families_and_stretched_angles_are_read_back_the_same(model: Path, tmp_path: Path, family: str) -> None:
    folder = _of_family(family, like=model, folder=tmp_path / family)
    told = write_gguf.write(folder, tmp_path / "model.gguf", kind="f32")
    assert told["mean_difference_nats"] <= 1e-4
    names = [tensor.name for tensor in GGUFReader(tmp_path / "model.gguf").tensors]
    assert ("rope_freqs.weight" in names) == (family == "llama3")


def test_weights_of_16_bits_stay_so_and_are_compared_in_32_one_module_at_a_time(model: Path, tmp_path: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    loaded.save_pretrained(tmp_path / "halved")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "halved")
    told = write_gguf.write(tmp_path / "halved", tmp_path / "model.gguf", kind="f32")
    assert told["mean_difference_nats"] <= told["tolerance_nats"], "as near as from 32 bits"

    wide = []
    for module in loaded.modules():
        module.register_forward_hook(lambda *_: wide.append(sum(p.dtype == torch.float32 for p in loaded.parameters())))
    before = [weight.clone() for weight in loaded.parameters()]
    with computing_in_fp32(loaded):
        said = token_log_probabilities(loaded, torch.tensor([[5, 6, 7]]))
    assert max(wide) == 1
    assert all(torch.equal(old, new) for old, new in zip(before, loaded.parameters(), strict=True))
    assert torch.equal(said, token_log_probabilities(loaded.float(), torch.tensor([[5, 6, 7]])))


def test_an_architecture_without_a_form_is_refused_by_its_name(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((model / "config.json").read_text()) | {"architectures": ["OddForCausalLM"]}
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    assert write_gguf.main([str(other), str(tmp_path / "model.gguf")]) == 1
    told = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert told["code"] == "no_gguf_form"
    assert "OddForCausalLM" in told["message"]


def test_what_differs_is_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute: Callable[..., torch.Tensor] = write_gguf.token_log_probabilities
    calls = iter((0.0, 0.1))
    monkeypatch.setattr(write_gguf, "token_log_probabilities", lambda *given: compute(*given) + next(calls))
    assert write_gguf.main([str(model), str(tmp_path / "model.gguf")]) == 1
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["code"] == "export_differs"
    assert not list(tmp_path.iterdir())


def _of_family(family: str, *, like: Path, folder: Path) -> Path:
    """A tiny model of another class or with other angles, with the tokenizer of `like`; returns its folder."""
    from transformers.models.llama import LlamaConfig, LlamaForCausalLM
    from transformers.models.qwen2 import Qwen2Config, Qwen2ForCausalLM
    from transformers.models.qwen3 import Qwen3Config, Qwen3ForCausalLM

    sizes = json.loads((like / "config.json").read_text())
    kept = {name: sizes[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    stretched = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    torch.manual_seed(0)
    if family == "qwen2":
        made = Qwen2ForCausalLM(Qwen2Config(**kept, **heads))
    elif family == "qwen3":
        made = Qwen3ForCausalLM(Qwen3Config(**kept, **heads, head_dim=128))
    else:
        made = LlamaForCausalLM(LlamaConfig(**kept, **heads, rope_parameters=stretched))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("bias"):
                weight.normal_()
    made.save_pretrained(folder)
    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return folder
