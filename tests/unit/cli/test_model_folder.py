"""A folder is refused with the file and the reason, before anything is sent."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from tunesmith.cli.models.folder import BrokenModel, inspect
from tunesmith.cli.models.tensors import read_header
from tunesmith.tuning.errors import InvalidRequest

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 10,
}
INDEX = "model.safetensors.index.json"


def write_safetensors(path: Path, *names: str, tensor_bytes: int = 16) -> Path:
    header = {
        name: {
            "dtype": "F32",
            "shape": [tensor_bytes // 4],
            "data_offsets": [index * tensor_bytes, (index + 1) * tensor_bytes],
        }
        for index, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(tensor_bytes * len(names)))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model in one file."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}))
    write_safetensors(tmp_path / "model.safetensors", "a", "b")
    return tmp_path


@pytest.fixture
def sharded(folder: Path) -> Path:
    """A whole model in two shards."""
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model-1.safetensors", "a", "b")
    write_safetensors(folder / "model-2.safetensors", "c")
    weight_map = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_tensors(path: Path, shapes: dict[str, list[int]]) -> Path:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return path


def refusal(folder: Path) -> BrokenModel:
    with pytest.raises(BrokenModel) as caught:
        inspect(folder)
    assert caught.value.hint
    return caught.value


def test_a_whole_folder_lists_its_files_and_nothing_else(folder: Path) -> None:
    (folder / "modeling_custom.py").write_text("print('never sent')")
    (folder / "notes.txt").write_text("never sent")
    found = inspect(folder)
    assert found.files == ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    assert found.warnings == ()
    assert found.total_bytes == sum((folder / name).stat().st_size for name in found.files)


def test_shards_are_listed_with_their_index(sharded: Path) -> None:
    assert inspect(sharded).files[-3:] == (INDEX, "model-1.safetensors", "model-2.safetensors")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "not a folder" in refusal(tmp_path / "nowhere").message


def test_a_missing_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refusal(folder).param == "config.json"


@pytest.mark.parametrize("text", ["{", "[]", '"text"', '{"hidden_size": 64}', "\xff"])
def test_a_config_that_says_nothing_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert refusal(folder).param == "config.json"


def test_a_missing_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "tokenizer" in refusal(folder).message


def test_a_missing_shard_is_refused_by_name(sharded: Path) -> None:
    (sharded / "model-2.safetensors").unlink()
    error = refusal(sharded)
    assert error.param == "model-2.safetensors"
    assert "missing" in error.message


def test_a_shard_without_a_promised_tensor_is_refused(sharded: Path) -> None:
    write_safetensors(sharded / "model-2.safetensors", "other")
    assert "'c'" in refusal(sharded).message


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "weights.bin"])
def test_an_index_that_points_elsewhere_is_refused(sharded: Path, shard: str) -> None:
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))
    assert refusal(sharded).param == INDEX


def test_a_bad_index_is_refused(sharded: Path) -> None:
    (sharded / INDEX).write_text("{")
    assert refusal(sharded).param == INDEX


@pytest.mark.parametrize("kept_bytes", [0, 5, 20, -1])
def test_a_truncated_file_is_refused(folder: Path, kept_bytes: int) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:kept_bytes])
    error = refusal(folder)
    assert error.param == "model.safetensors"
    assert "damaged" in error.message


def test_a_header_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"oops")
    assert "not JSON" in refusal(folder).message


def test_a_header_longer_than_the_file_is_refused_without_reading_it(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    assert "claims" in refusal(folder).message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused_with_a_way_out(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04")
    error = refusal(folder)
    assert error.param == name
    assert "pickle" in error.message
    assert "save_pretrained" in str(error.hint)


def test_a_pickle_beside_safetensors_is_left_out_and_said(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    found = inspect(folder)
    assert "pytorch_model.bin" not in found.files
    assert any("pytorch_model.bin" in warning for warning in found.warnings)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no weights" in refusal(folder).message


def test_a_missing_chat_template_is_a_warning(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")
    assert any("chat template" in warning for warning in inspect(folder).warnings)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"hidden_size": float("nan")}, "config.hidden_size"),
        ({"hidden_size": 10**9}, "config.hidden_size"),
        ({"hidden_size": 10**6}, "config.hidden_size"),
        ({"vocab_size": 9}, "config.vocab_size"),
        ({"intermediate_size": 10**7}, "config.intermediate_size"),
        ({"num_hidden_layers": 1000}, "config.num_hidden_layers"),
        ({"num_attention_heads": 3}, "config.hidden_size"),
        ({"head_dim": 64}, "config.num_attention_heads"),
    ],
)
def test_a_config_that_its_weights_do_not_bear_out_is_refused_by_field(
    folder: Path, change: dict[str, Any], param: str
) -> None:
    write_tensors(
        folder / "model.safetensors",
        {
            "model.embed_tokens.weight": [10, 8],
            "model.layers.0.self_attn.q_proj.weight": [8, 8],
            "model.layers.0.mlp.up_proj.weight": [16, 8],
        },
    )
    assert inspect(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(InvalidRequest) as caught:
        inspect(folder)
    assert caught.value.param == param
    assert caught.value.hint


@pytest.mark.parametrize("vocab", [{"a": 0, "b": 10}, [["a", 0.0]] * 11])
def test_a_tokenizer_of_more_tokens_than_the_model_has_is_refused(folder: Path, vocab: Any) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}))
    error = refusal(folder)
    assert error.param == "tokenizer.json"
    assert "has a token 10, but config.json's vocab_size is 10" in error.message


def test_a_header_tells_names_and_shapes(tmp_path: Path) -> None:
    header = read_header(write_safetensors(tmp_path / "x.safetensors", "a"))
    assert header == {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
