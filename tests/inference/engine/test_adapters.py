"""Adapters in memory: which stay, which go, and which never come in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.inference.engine.asking import Asker, sha256, write_adapter
from tunesmith.worker.inference.engine.adapters.files import read_adapter
from tunesmith.worker.inference.engine.compute.model import BatchModel
from tunesmith.worker.inference.engine.refusal import Refusal

PROMPT = [5, 9, 200, 31]


def refusal(asker: Asker, folder: Path, **named: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        asker.engine.residents.load("new", folder, **named)
    assert "new" not in asker.engine.residents.names()
    return caught.value


def resident(asker: Asker) -> set[str]:
    return {adapter.name for adapter in asker.engine.residents._resident.values()}


def size_of(model: BatchModel, folder: Path) -> int:
    return read_adapter(folder, base=model.base).bytes


def test_the_longest_unused_go_first_and_come_back_with_the_same_answer(
    new_asker: Callable[..., Asker], model: BatchModel, tmp_path: Path
) -> None:
    folders = {name: write_adapter(tmp_path / name, seed=seed) for seed, name in enumerate("xyz", start=50)}
    asker = new_asker(loaded=folders, adapter_bytes=2 * size_of(model, folders["x"]))
    assert resident(asker) == {"y", "z"}
    first = asker.ask(PROMPT, adapter="x")
    assert resident(asker) == {"z", "x"}
    asker.ask(PROMPT, adapter="y")
    assert resident(asker) == {"x", "y"}
    assert asker.ask(PROMPT, adapter="x").logprobs == first.logprobs
    assert asker.engine.residents.bytes <= asker.engine.limits.adapter_bytes


def test_an_adapter_in_use_never_goes_and_who_finds_no_room_waits(
    new_asker: Callable[..., Asker], model: BatchModel, tmp_path: Path
) -> None:
    folders = {name: write_adapter(tmp_path / name, seed=seed) for seed, name in enumerate("xy", start=50)}
    asker = new_asker(loaded=folders, adapter_bytes=size_of(model, folders["x"]))
    _, using = asker.begin(PROMPT, adapter="x", most_tokens=6)
    _, waiting = asker.begin(PROMPT, adapter="y", most_tokens=2)
    for _ in range(4):
        asker.engine.step()
        assert resident(asker) == {"x"}
        assert not waiting.deltas
    asker.finish()
    assert (len(using.tokens), len(waiting.tokens)) == (6, 2)


def test_who_holds_an_adapter_that_is_unloaded_is_answered_to_the_end(asker: Asker) -> None:
    expected = asker.ask(PROMPT, adapter="a1", most_tokens=6).tokens
    _, under_way = asker.begin(PROMPT, adapter="a1", most_tokens=6)
    asker.engine.step()
    _, waiting = asker.begin(PROMPT, adapter="a1", most_tokens=6)
    asker.engine.residents.unload("a1")
    with pytest.raises(Refusal) as caught:
        asker.begin(PROMPT, adapter="a1")
    assert caught.value.http_status == 404
    asker.finish()
    assert under_way.tokens == waiting.tokens == expected
    assert "a1" not in resident(asker)


def test_a_name_that_is_taken_again_answers_with_the_new_weights(asker: Asker, tmp_path: Path) -> None:
    prompt = PROMPT * 20  # long enough to be kept
    before = asker.ask(prompt, adapter="a1")
    asker.engine.residents.unload("a1")
    asker.engine.residents.load("a1", write_adapter(tmp_path / "other", seed=99))
    after = asker.ask(prompt, adapter="a1")
    assert after.tokens != before.tokens
    asker.engine.residents.load("same", tmp_path / "other")
    assert asker.ask(prompt, adapter="same").logprobs == after.logprobs


def test_loading_the_same_again_is_no_error_and_another_under_its_name_is(asker: Asker, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "one", seed=1)
    asker.engine.residents.load("one", folder)
    asker.engine.residents.load("one", folder)
    with pytest.raises(Refusal) as caught:
        asker.engine.residents.load("one", write_adapter(tmp_path / "two", seed=2))
    assert caught.value.param == "lora_name"


def test_rank_stabilised_scaling_is_alpha_over_the_root_of_the_rank(model: BatchModel, tmp_path: Path) -> None:
    plain = read_adapter(write_adapter(tmp_path / "plain", seed=1, rank=16), base=model.base)
    stabilised = read_adapter(write_adapter(tmp_path / "rs", seed=1, rank=16, use_rslora=True), base=model.base)
    name = "model.layers.0.self_attn.q_proj"
    assert torch.allclose(stabilised.up[name], plain.up[name] * 4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
    ],
)
def test_what_is_not_computed_is_refused_with_the_way_out(
    asker: Asker, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    error = refusal(asker, write_adapter(tmp_path / "a", seed=1, **change))
    assert (error.code, error.http_status, error.param) == ("model_not_supported", 400, "lora_path")
    assert told in error.message
    assert "Merge" in error.message


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return folder


NAME = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda held: held[f"{NAME}.lora_A.weight"].view(-1)[3:4].fill_(float("nan")), "invalid_value"),
        (lambda held: held[f"{NAME}.lora_B.weight"].view(-1)[:1].fill_(float("inf")), "invalid_value"),
        (lambda held: held.update({f"{NAME}.lora_A.weight": torch.ones(4, 48)}), "adapter_of_another_base"),
        (lambda held: held.update({f"{NAME}.lora_B.weight": torch.ones(64, 5)}), "invalid_value"),
        (lambda held: held.pop(f"{NAME}.lora_B.weight"), "invalid_value"),
        (lambda held: held.update({f"{NAME}.bias": torch.ones(64)}), "model_not_supported"),
        (
            lambda held: [
                held.update({f"{NAME.replace('0', '7')}.lora_{side}.weight": torch.ones(4, 4)}) for side in "AB"
            ],
            "adapter_of_another_base",
        ),
        (lambda held: held.clear(), "invalid_value"),
    ],
    ids=["nan", "infinite", "shape", "ranks", "half", "more", "depth", "empty"],
)
def test_weights_that_do_not_fit_are_refused(asker: Asker, tmp_path: Path, change: Any, code: str) -> None:
    error = refusal(asker, changed(write_adapter(tmp_path / "a", seed=1), change))
    assert (error.code, error.http_status) == (code, 400)


def test_an_adapter_of_another_base_is_known_by_the_hash_in_its_manifest(
    asker: Asker, tmp_path: Path, base: Path
) -> None:
    folder = write_adapter(tmp_path / "a", seed=1)
    (folder / "manifest.json").write_text(json.dumps({"base_model": {"model.safetensors": "0" * 64}}))
    assert refusal(asker, folder).code == "adapter_of_another_base"


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x08\0\0\0\0\0\0\0{}{}{}{}"])
def test_only_whole_safetensors_are_read(asker: Asker, tmp_path: Path, content: bytes) -> None:
    folder = write_adapter(tmp_path / "a", seed=1)
    (folder / "adapter_model.safetensors").write_bytes(content)
    assert refusal(asker, folder).http_status == 400
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "safetensors" in refusal(asker, folder).message


@pytest.mark.parametrize("content", ["{", "[]", '{"peft_type": "LORA", "lora_alpha": "x"}'])
def test_settings_that_say_nothing_are_refused(asker: Asker, tmp_path: Path, content: str) -> None:
    folder = write_adapter(tmp_path / "a", seed=1)
    (folder / "adapter_config.json").write_text(content)
    assert refusal(asker, folder).http_status == 400


def test_an_altered_adapter_is_refused_at_its_first_load(asker: Asker, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", seed=1)
    expected = sha256(folder)
    changed(folder, lambda held: held[f"{NAME}.lora_A.weight"].mul_(1.01))
    error = refusal(asker, folder, sha256=expected)
    assert (error.code, error.http_status) == ("hash_mismatch", 400)


def test_an_adapter_altered_while_it_was_out_of_memory_never_answers(
    new_asker: Callable[..., Asker], model: BatchModel, tmp_path: Path
) -> None:
    folders = {name: write_adapter(tmp_path / name, seed=seed) for seed, name in enumerate("xy", start=50)}
    asker = new_asker(loaded=folders, adapter_bytes=size_of(model, folders["x"]))
    changed(folders["x"], lambda held: held[f"{NAME}.lora_A.weight"].mul_(1.01))
    answer = asker.ask(PROMPT, adapter="x")
    assert (answer.tokens, answer.error.code) == ([], "hash_mismatch")
    assert asker.ask(PROMPT, adapter="y").tokens


def test_an_adapter_larger_than_all_may_be_is_refused(new_asker: Callable[..., Asker], tmp_path: Path) -> None:
    asker = new_asker(loaded={}, adapter_bytes=60_000)
    assert "--max-adapter-bytes" in refusal(asker, write_adapter(tmp_path / "a", seed=1, rank=64)).message
