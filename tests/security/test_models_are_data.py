"""A model's folder comes from anywhere: what leads out of it, could be code, or is far too large is refused unread."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.control_plane import TINY_CONFIG, ControlPlane, control_plane, live_control_plane, plane, sha256
from tests.service.test_access import is_error
from tests.unit.cli.test_model_folder import CONFIG, folder, sharded, write_safetensors
from tunesmith.cli.models.folder import BrokenModel, inspect
from tunesmith.cli.models.tensors import read_header
from tunesmith.tuning.models.files import LARGEST_CONFIG_BYTES
from tunesmith.tuning.models.shape import MEASURED_SHAPE

__all__ = ["control_plane", "folder", "live_control_plane", "plane", "sharded"]


class TestFoldersThatAreSent:
    @pytest.mark.parametrize("name", ["vocab.txt", "merges.txt", "config.json", "tokenizer.json", "model.safetensors"])
    def test_a_link_out_of_the_folder_is_refused_by_name(
        self, folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str
    ) -> None:
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "admin.key"
        elsewhere.write_text("ts-secret")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(elsewhere)
        with pytest.raises(BrokenModel, match="leads out of") as refused:
            inspect(folder)
        assert refused.value.param == name
        assert "ts-secret" not in str(refused.value)

    def test_so_is_a_shard_that_is_a_link_through_another(
        self, sharded: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        elsewhere = write_safetensors(tmp_path_factory.mktemp("elsewhere") / "weights", "c")
        (sharded / "hop").symlink_to(elsewhere)
        (sharded / "model-2.safetensors").unlink()
        (sharded / "model-2.safetensors").symlink_to("hop")
        with pytest.raises(BrokenModel, match="leads out of"):
            inspect(sharded)

    def test_the_links_of_the_hubs_own_cache_are_followed_to_its_blobs_alone(self, folder: Path) -> None:
        repository = folder / "models--acme--tiny"
        blobs, snapshot = repository / "blobs", repository / "snapshots" / "0123abc"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for file in [path for path in folder.iterdir() if path.is_file()]:
            file.rename(blobs / file.name)
            (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
        assert inspect(snapshot).files
        (folder / "other").write_text("{}")
        (snapshot / "vocab.txt").symlink_to(folder / "other")
        with pytest.raises(BrokenModel, match="leads out of"):
            inspect(snapshot)

    @pytest.mark.parametrize(
        "header",
        [struct.pack("<Q", 10**11) + b"{}", struct.pack("<Q", 2**63) + b"{}", b"\x80\x04cos\nsystem\n"],
        ids=["a hundred gigabytes", "beyond every number", "a pickle"],
    )
    def test_a_header_larger_than_its_file_is_not_read(self, tmp_path: Path, header: bytes) -> None:
        (tmp_path / "model.safetensors").write_bytes(header)
        with pytest.raises(ValueError, match="header"):
            read_header(tmp_path / "model.safetensors")

    def test_a_header_nested_without_end_is_an_error_and_no_crash(self, tmp_path: Path) -> None:
        text = b'{"a":' * 200_000
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(ValueError, match="not JSON"):
            read_header(tmp_path / "model.safetensors")

    def test_a_config_of_many_megabytes_is_not_read(self, folder: Path) -> None:
        os.truncate(folder / "config.json", LARGEST_CONFIG_BYTES + 1)
        with pytest.raises(BrokenModel, match="may have"):
            inspect(folder)

    def test_pickles_stay_where_they_are_whatever_their_letters(self, folder: Path) -> None:
        for name in ("pytorch_model.BIN", "training_args.Pickle", "modeling_evil.PY"):
            (folder / name).write_bytes(b"\x80\x04")
        found = inspect(folder)
        assert not {"pytorch_model.BIN", "training_args.Pickle", "modeling_evil.PY"} & set(found.files)
        assert any("pytorch_model.BIN" in warning for warning in found.warnings)


class TestSetsThatAreRegistered:
    def post(self, plane: ControlPlane, *names: str, config: object = TINY_CONFIG, size: int = 1) -> httpx2.Response:
        files = [{"name": name, "sha256": "0" * 64, "bytes": size} for name in names]
        return plane.request("POST", "/v1/models", key="admin", json={"name": "m", "files": files, "config": config})

    @pytest.mark.parametrize(
        "name",
        ["evil.PY", "evil.pyc", "evil.so", "pytorch_model.BIN", "weights.pth.tar", "run.sh", "model.safetensors.pkl",
         "setup.cfg", "a.zip", "Makefile", "evil.json.exe"],
    )  # fmt: skip
    def test_names_that_no_model_needs_are_refused(self, plane: ControlPlane, name: str) -> None:
        answer = self.post(plane, "config.json", "model.safetensors", name)
        assert is_error(answer, 400, "unsafe_file"), name
        assert answer.json()["error"]["param"] == "files"

    def test_two_names_that_differ_in_their_letters_alone_are_one(self, plane: ControlPlane) -> None:
        assert is_error(self.post(plane, "config.json", "CONFIG.json", "model.safetensors"), 400)

    def test_a_small_file_of_an_enormous_size_is_refused(self, plane: ControlPlane) -> None:
        assert is_error(self.post(plane, "config.json", "model.safetensors", size=10**15), 400)

    def test_the_config_must_be_the_one_in_the_files(self, plane: ControlPlane) -> None:
        contents = {"config.json": json.dumps(TINY_CONFIG).encode(), "model.safetensors": b"weights"}
        files = [{"name": name, "sha256": sha256(data), "bytes": len(data)} for name, data in contents.items()]
        body = {"name": "m", "files": files, "config": {**TINY_CONFIG, "num_hidden_layers": 1}}
        for data in contents.values():
            plane.request("PUT", f"/v1/blobs/{sha256(data)}", key="admin", content=data)
        refused = plane.request("POST", "/v1/models", key="admin", json=body)
        assert is_error(refused, 400, "broken_model")
        assert refused.json()["error"]["param"] == "config"
        measured = {**TINY_CONFIG, MEASURED_SHAPE: None}  # what the command adds is no part of the file
        accepted = plane.request("POST", "/v1/models", key="admin", json={**body, "config": measured})
        assert accepted.json()["tunesmith"]["status"] == "ready"


@pytest.mark.torch
def test_code_that_a_model_brings_along_is_never_run(folder: Path) -> None:
    code = "open('ran', 'w').close()\nclass Own: pass\n"
    (folder / "own.py").write_text(code)
    maps = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
    for name, content in (("config.json", CONFIG), ("tokenizer_config.json", {"tokenizer_class": "Own"})):
        (folder / name).write_text(json.dumps({**content, "auto_map": maps}))
    script = (
        "import sys; from pathlib import Path\n"
        "from tunesmith.worker.train.models.model import load_config, load_tokenizer\n"
        "for load in (load_config, load_tokenizer):\n"
        "    try: load(Path(sys.argv[1]))\n"
        "    except Exception as error: print(type(error).__name__)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=folder, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert not (folder / "ran").exists()
