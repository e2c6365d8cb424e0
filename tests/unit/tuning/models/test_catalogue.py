"""Models by the names that people use."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.models.catalogue import CONFIGS, find_model, find_shape, hub_ids, without_formulas
from tunesmith.tuning.models.shape import ModelShape

ROOT = Path(__file__).parents[4]
# What is called 1B or 2B and has more, counted by its owner without embeddings, or simply rounded down.
ROUNDED_DOWN = re.compile(
    r"llama-(3\.2|guard-3)-1b|falcon3-1b|open-llama-3b|minitron-4b|(code)?gemma-(1\.1-)?[27]b|gemma-2-2b|shieldgemma-2b|olmo-(2-0425-)?1b|"
    r"granite-(3\.\d-[12]b|4\.0-1b|3b-code)|ernie-4\.5-0\.3b|deepseek-r1-distill-qwen-1\.5b|deepscaler|falcon-rw-1b|starcoderbase-1b|zephyr-7b-gemma|"
    r"ministral-3-3b|qwen2(\.5)?-vl-[37]b"
)

CONTEXT_LENGTHS = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")


def size_in(hub_id: str) -> float | None:
    """`Qwen/Qwen3-30B-A3B` says 30e9; of mixtures that multiply (8x7B) or name what is active nothing is read."""
    words = re.sub(r"(?<=\d)_(?=\d)", ".", hub_id.rpartition("/")[2].lower()).replace("_", "-")
    if words.startswith(("llama-4-", "olmoe-", "zephyr-orpo-")):
        return None
    found = re.search(r"(?<![a-z\d.])(?:qwen[\d.]*-|falcon3-)?(\d+(?:\.\d+)?)([bm])(?![a-z\d])", words)
    return None if found is None else float(found[1]) * (1e9 if found[2] == "b" else 1e6)


def test_four_hundred_everyday_ids_are_known_and_have_the_size_that_they_say() -> None:
    assert len(hub_ids()) >= 400
    sizes = {hub_id: size for hub_id in hub_ids() if (size := size_in(hub_id))}
    assert len(sizes) > 350
    for hub_id, size in sizes.items():
        shape = find_shape(hub_id)
        most = 1.7 if ROUNDED_DOWN.search(hub_id.lower().replace("_", "-")) else 1.13
        assert 0.87 < (shape.parameters + shape.outside_parameters) / size < most, hub_id


def test_every_entry_has_a_source_and_a_shape() -> None:
    content = json.loads((ROOT / "tuning" / "models" / "hub_models.json").read_text())
    for name, model in content["models"].items():
        assert model["source"] in content["sources"], name
        assert find_shape(name).context_length == context_of(CONFIGS[name]), name


def context_of(config: dict[str, int]) -> int:
    """Of state-space models, whose rows may be of any length, what the planner takes."""
    text = dict(config.get("text_config") or config)  # type: ignore[call-overload]
    return int(next((text[field] for field in CONTEXT_LENGTHS if text.get(field)), 2048))


def test_no_hub_id_stands_for_two_models() -> None:
    written = [hub_id.lower() for hub_id in hub_ids()]
    assert len(written) == len(set(written))


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("llama-3.1-8b", "llama-3.1-8b"),
        ("Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("NousResearch/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b-2507"),
        ("google/gemma-3-1b-it", "gemma-3-1b"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi-3-mini"),
        ("microsoft/phi-1_5", "phi-1.5"),
        ("Qwen/Qwen1.5-7B-Chat", "qwen1.5-7b"),
        ("unsloth/Llama-3.2-3B-Instruct", "llama-3.2-3b"),
        ("gpt2", "gpt2"),
    ],
)
def test_people_find_a_model_by_the_names_they_use(written: str, name: str) -> None:
    found = find_model(written)
    assert (found.name, found.note) == (name, None)


@pytest.mark.parametrize(
    ("written", "name", "word"),
    [
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "qwen3-8b", "4-bit"),
        ("unsloth/mistral-7b-instruct-v0.3-bnb-4bit", "mistral-7b-v0.3", "4-bit"),
        ("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "llama-3.1-8b", "widened"),
    ],
)
def test_weights_in_another_form_are_planned_with_their_base_and_a_word(written: str, name: str, word: str) -> None:
    found = find_model(written)
    assert found.name == name
    assert found.note is not None
    assert word in found.note


@pytest.mark.parametrize(
    ("written", "name", "word"),
    [
        ("llama3.1:8b", "llama-3.1-8b", "read as"),
        ("llama-3.1-8b:latest", "llama-3.1-8b", "read as"),
        ("llama3.1-8b", "llama-3.1-8b", "read as"),
        ("Llama 3.1 8B Instruct", "llama-3.1-8b", None),
        ("llama-3-1-8b", "llama-3.1-8b", "read as"),
        ("Qwen/Qwen3-8B@main", "qwen3-8b", "read as"),
        ("qwen2.5:7b-instruct-q4_K_M", "qwen2.5-7b-instruct", "widened"),
        ("Qwen3-8B-Q4_K_M.gguf", "qwen3-8b", "widened"),
        ("bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0", "llama-3.2-1b", "widened"),
        ("somebody/Meta-Llama-3.1-8B-Instruct-4bit", "llama-3.1-8b", "4-bit"),
        ("openai/gpt-oss-20b", "gpt-oss-20b", "MXFP4"),
        ("unsloth/gpt-oss-20b-BF16", "gpt-oss-20b", None),
    ],
)
def test_names_as_others_write_them_are_read_and_said_to_be(written: str, name: str, word: str | None) -> None:
    found = find_model(written)
    assert found.name == name
    assert found.note is None if word is None else word in str(found.note)


@pytest.mark.parametrize("written", ["llama3.1:latest", "llama3", "gemma-31b", "qwen3:9b", "llama-3.1-8b:nonsense"])
def test_a_name_that_leaves_open_which_model_it_is_is_not_guessed(written: str) -> None:
    with pytest.raises(InvalidRequest, match="No model is known"):
        find_model(written)


@pytest.mark.parametrize("written", ["gpt-4o-mini-2024-07-18", "openai/gpt-4.1", "gpt-3.5-turbo", "claude-3-haiku"])
def test_a_model_whose_weights_nobody_has_is_said_to_be_one(written: str) -> None:
    with pytest.raises(InvalidRequest, match="not published") as caught:
        find_model(written)
    assert "llama-3.1-8b" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("written", "base"),
    [
        ("mlx-community/Llama-3.2-3B-Instruct-4bit", "llama-3.2-3b"),
        ("TheBloke/Llama-2-7B-GPTQ", "llama-2-7b"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b-instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "qwen2.5-7b-instruct"),
        ("unsloth/Llama-3.1-8B-Instruct-FP8-Block", "llama-3.1-8b"),
        ("RedHatAI/Qwen3-8B-quantized.w4a16", "qwen3-8b"),
        ("somebody/unheard-of-MLX-4bit", "the model that was quantised"),
    ],
)
def test_weights_made_for_inference_are_refused_and_their_base_is_named(written: str, base: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be trained on") as caught:
        find_model(written)
    assert base in str(caught.value.hint)
    assert caught.value.code == "model_not_trainable"


@pytest.mark.parametrize(("written", "near"), [("lama-3.1-8b", "llama-3.1-8b"), ("Qwen/Qwen3-9B", "qwen3-8b")])
def test_an_unknown_name_gets_near_matches(written: str, near: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        find_model(written)
    assert caught.value.param == "model"
    assert near in str(caught.value.hint)


@pytest.mark.slow
@pytest.mark.torch
def test_a_stored_shape_is_what_measuring_gives(tmp_path: Path) -> None:
    name = "granite-3.1-2b"
    assert name in set(without_formulas())
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIGS[name]))
    tool = [sys.executable, "-m", "tunesmith.worker.train.profiling.shape", str(config)]
    told = subprocess.run(tool, cwd=ROOT, check=True, capture_output=True, text=True)
    assert ModelShape.model_validate_json(told.stdout.splitlines()[-1]) == find_shape(name)
