"""Models from elsewhere: what is refused at once, what is kept, and what an unreachable hub looks like."""

from pathlib import Path

import pytest

from tunesmith.cli.cache import made_aside
from tunesmith.cli.models.hashing import sha256_of
from tunesmith.cli.models.sources import HubFailed, from_gguf, from_hub
from tunesmith.cli.trainer import ToolFailed
from tunesmith.tuning.errors import InvalidRequest


def test_a_converted_file_is_found_by_its_hash_whatever_its_name(tmp_path: Path) -> None:
    for name in ("one.gguf", "two.gguf"):
        (tmp_path / name).write_bytes(b"GGUF and the rest")
    kept = tmp_path / "cache" / "gguf" / sha256_of(tmp_path / "one.gguf")
    kept.mkdir(parents=True)
    assert from_gguf(tmp_path / "one.gguf", cache=tmp_path / "cache") == kept
    assert from_gguf(tmp_path / "two.gguf", cache=tmp_path / "cache") == kept


def test_a_damaged_gguf_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF and nothing that follows makes sense")
    with pytest.raises(ToolFailed) as caught:
        from_gguf(tmp_path / "bad.gguf", cache=tmp_path / "cache")
    assert "bad.gguf" in caught.value.message
    assert caught.value.hint
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []


@pytest.mark.parametrize("name", ["../etc", "a/b/c", "-x", "a b", "a/b@-x", "a/b@../x", ""])
def test_a_name_that_is_no_hub_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="hub name"):
        from_hub(name)


def test_an_unreachable_hub_says_what_to_do_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubFailed) as caught:
        from_hub("someone/some-model@main")
    assert "cannot be reached" in caught.value.message
    assert "--path" in str(caught.value.hint)
    assert caught.value.http_status == 503


def test_the_first_of_two_makers_wins(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    with made_aside(target) as slower:
        (slower / "file").write_text("second")
        with made_aside(target) as faster:
            (faster / "file").write_text("first")
    assert (target / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_fails_halfway_is_not_kept(tmp_path: Path) -> None:
    def make_half() -> None:
        with made_aside(tmp_path / "kept") as aside:
            (aside / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        make_half()
    assert list(tmp_path.iterdir()) == []
