"""A base model by its name on the hub: fetched by the service as far as its operator allows, whole or not at all."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.command import Run, in_process
from tests.control_plane import TINY_CONFIG, ControlPlane, chat_rows, sha256
from tests.stack.stand_in_hub import COMMIT, StandInHub, stand_in_hub

NAME = "acme-models/tiny"
WEIGHTS = b"weights of a tiny model" * 1000
FILES = {
    "config.json": json.dumps(TINY_CONFIG).encode(),
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "modeling_tiny.py": b"print('code')",
    "README.md": b"a card",
    "onnx/model.onnx": b"elsewhere",
}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with stand_in_hub() as running:
        running.repositories[NAME] = dict(FILES)
        yield running


@pytest.fixture
def allow(plane: ControlPlane, hub: StandInHub) -> Iterator[Callable[..., None]]:
    """Sets what the operator lists, and other settings of one test."""
    before = plane.app.state.settings

    def change(*patterns: str, **more: object) -> None:
        update = {"hub_models": patterns, "hub_url": hub.url, **more}
        plane.app.state.settings = before.model_copy(update=update)

    change("acme-models/*")
    yield change
    plane.app.state.settings = before


@pytest.fixture
def run(plane: ControlPlane, tmp_path: Path) -> Run:
    service = {"TUNESMITH_URL": plane.url, "TUNESMITH_API_KEY": plane.keys["member"]}
    return in_process({"PATH": os.environ["PATH"], "TUNESMITH_DATA_DIR": str(tmp_path), "COLUMNS": "200", **service})


def fetch(plane: ControlPlane, name: str = NAME, **more: str) -> httpx2.Response:
    return plane.request("POST", "/v1/models/from_hub", json={"id": name, **more})


def lines(answer: httpx2.Response) -> list[dict[str, object]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def error(answer: httpx2.Response) -> dict[str, str]:
    return dict(answer.json()["error"])


@pytest.mark.usefixtures("allow")
class TestWhatComes:
    def test_the_files_of_a_model_and_no_others_of_a_commit_that_is_recorded(
        self, plane: ControlPlane, hub: StandInHub
    ) -> None:
        *steps, model = lines(fetch(plane))
        assert steps[0] == {
            "object": "model.fetch",
            "id": NAME,
            "commit": COMMIT,
            "fetched_bytes": 0,
            "total_bytes": sum(len(FILES[name]) for name in ("config.json", "tokenizer.json", "model.safetensors")),
        }
        ours = model["tunesmith"]
        assert (model["id"], ours["status"], ours["hub"]) == (NAME, "ready", {"id": NAME, "commit": COMMIT})
        assert {file["name"] for file in ours["files"]} == {"config.json", "tokenizer.json", "model.safetensors"}
        content = plane.request("GET", f"/v1/blobs/{sha256(WEIGHTS)}", params={"model": NAME})
        assert content.content == WEIGHTS
        assert not [path for path in hub.asked if path.endswith((".bin", ".py", ".onnx"))]
        assert plane.sql("SELECT subject FROM audit_entries WHERE action = 'model.fetched'") == [(NAME,)]

    def test_a_model_that_is_there_asks_no_hub(self, plane: ControlPlane, hub: StandInHub) -> None:
        fetch(plane)
        hub.asked.clear()
        assert [line["object"] for line in lines(fetch(plane))] == ["model"]
        assert [line["object"] for line in lines(fetch(plane, revision=COMMIT))] == ["model"]
        assert hub.asked == []

    def test_an_answer_that_breaks_off_registers_nothing_and_what_came_need_not_come_again(
        self, plane: ControlPlane, hub: StandInHub
    ) -> None:
        shards = {f"model-0000{place}-of-00002.safetensors": bytes([place]) * 50_000 for place in (1, 2)}
        hub.repositories[NAME] = {
            "config.json": FILES["config.json"],
            "model.safetensors.index.json": b"{}",
            **shards,
        }
        hub.cut_once = {"model-00002-of-00002.safetensors"}
        ending = lines(fetch(plane))[-1]
        assert ending["error"]["code"] == "hub_failed"
        assert "promised" in ending["error"]["message"]
        assert plane.sql("SELECT name FROM models") == []
        hub.asked.clear()
        assert lines(fetch(plane))[-1]["id"] == NAME
        assert not [path for path in hub.asked if path.endswith("model-00001-of-00002.safetensors")]

    def test_bytes_of_another_hash_than_was_promised_are_refused(self, plane: ControlPlane, hub: StandInHub) -> None:
        class Changing(dict[str, bytes]):
            def __getitem__(self, name: str) -> bytes:
                data = super().__getitem__(name)
                return data[::-1] if name.endswith(".safetensors") else data

        hub.repositories[NAME] = Changing(FILES)
        assert lines(fetch(plane))[-1]["error"]["code"] == "hash_mismatch"
        assert plane.sql("SELECT name FROM models") == []

    def test_a_job_by_the_hubs_name_has_its_model_fetched(self, plane: ControlPlane, run: Run, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").write_bytes(chat_rows())
        ended = run("submit", tmp_path / "rows.jsonl", "--model", NAME, "-o", "id")
        assert ended.returncode == 0, ended.stderr
        assert f"commit {COMMIT}" in ended.stderr
        assert plane.job(ended.stdout.strip())["model"] == NAME


class TestRefusals:
    def test_nothing_is_fetched_unless_the_operator_lists_it(
        self, plane: ControlPlane, hub: StandInHub, allow: Callable[..., None], run: Run, tmp_path: Path
    ) -> None:
        allow()
        refused = error(fetch(plane))
        assert (refused["code"], "TUNESMITH_HUB_MODELS" in refused["hint"]) == ("hub_model_not_allowed", True)
        allow("acme-models/other", "acme-models-2/*")
        assert fetch(plane).status_code == 403
        (tmp_path / "rows.jsonl").write_bytes(chat_rows())
        ended = run("submit", tmp_path / "rows.jsonl", "--model", NAME)
        assert ended.returncode != 0
        assert "TUNESMITH_HUB_MODELS" in ended.stderr
        assert hub.asked == []

    @pytest.mark.parametrize(
        "name",
        [
            "../x",
            "a/b/c",
            "org/..",
            "org/.",
            "org/x\x00",
            "https://evil.example.com/x",
            "org",
            "/org/x",
            "org/x?a=b",
            "org/x#a",
            "org/x%2f..",
            "o..g/x",
            "org\\x",
            "org/x y",
            "",
            "org/" + "x" * 200,
        ],
    )
    def test_a_name_with_a_path_in_it_reaches_no_hub(
        self, plane: ControlPlane, hub: StandInHub, allow: Callable[..., None], name: str
    ) -> None:
        allow("*")
        refused = fetch(plane, name)
        assert (refused.status_code, error(refused)["param"]) == (400, "id")
        assert fetch(plane, NAME, revision="../../x").status_code == 400
        assert hub.asked == []

    def test_a_hub_that_is_away_leaves_nothing(self, plane: ControlPlane, allow: Callable[..., None]) -> None:
        before = plane.snapshot()
        allow("*", hub_url="http://127.0.0.1:9")
        refused = fetch(plane)
        assert (refused.status_code, error(refused)["code"]) == (503, "hub_failed")
        assert "--path" in error(refused)["hint"]
        assert plane.snapshot() == before

    @pytest.mark.usefixtures("allow")
    def test_what_the_hub_has_not_is_told_apart(self, plane: ControlPlane) -> None:
        assert "no model acme-models/none" in error(fetch(plane, "acme-models/none"))["message"]
        assert "no revision v9" in error(fetch(plane, NAME, revision="v9"))["message"]

    @pytest.mark.usefixtures("allow")
    @pytest.mark.parametrize(
        ("files", "code"),
        [
            ({"config.json": FILES["config.json"], "pytorch_model.bin": b"a pickle"}, "incomplete_model"),
            ({"model.safetensors": WEIGHTS}, "incomplete_model"),
            ({"config.json": b"[]", "model.safetensors": WEIGHTS}, "broken_model"),
            ({"config.json": b'{"model_type": "none-such"}', "model.safetensors": WEIGHTS}, "unknown_model_family"),
            (
                {
                    "config.json": FILES["config.json"],
                    "model.safetensors.index.json": b"{}",
                    "model-00001-of-00002.safetensors": WEIGHTS,
                },
                "incomplete_model",
            ),
        ],
    )
    def test_what_is_no_model_is_refused_before_any_weight_is_fetched(
        self, plane: ControlPlane, hub: StandInHub, files: dict[str, bytes], code: str
    ) -> None:
        hub.repositories[NAME] = files
        refused = fetch(plane)
        assert (refused.status_code, error(refused)["code"]) == (400, code)
        assert not [path for path in hub.asked if path.endswith(".safetensors")]

    def test_a_model_that_is_too_large_is_refused_by_its_listed_size(
        self, plane: ControlPlane, hub: StandInHub, allow: Callable[..., None]
    ) -> None:
        allow("*", max_hub_model_bytes=10_000)
        refused = fetch(plane)
        assert (refused.status_code, "TUNESMITH_MAX_HUB_MODEL_BYTES" in error(refused)["hint"]) == (413, True)
        hub.sizes = {"tokenizer.json": 10**12}
        allow("*", max_hub_model_bytes=10**15)
        assert fetch(plane).status_code == 400

    def test_the_hubs_token_goes_with_the_request(
        self, plane: ControlPlane, hub: StandInHub, allow: Callable[..., None]
    ) -> None:
        from pydantic import SecretStr

        allow("*", hub_token=SecretStr("hf_secret"))
        fetch(plane)
        assert hub.tokens == {"Bearer hf_secret"}
