"""A file is tokenised once for a retrain, a retry and every process; an entry that was altered is never trained on."""

import json
import os
import shutil
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tests.train.processes import gang
from tunesmith.worker.attempt.token_cache import TokenStore
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.train import session
from tunesmith.worker.train.data import cache as caching
from tunesmith.worker.train.data.cache import RowCache, rows_key
from tunesmith.worker.train.data.rows import Rows, load_rows
from tunesmith.worker.train.models.model import load_tokenizer
from tunesmith.worker.train.recorder import Recorder

RESULT = "adapter_model.safetensors"
SETTINGS: dict[str, Any] = {"objective": "supervised", "on_long_row": "truncate"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return runs.write_rows(tmp_path / "rows.jsonl", runs.chat_rows(12))


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.root.mkdir()
    return made


def loaded(file: Path, model: Path, *, limit: int = 256) -> Rows:
    return load_rows(file, tokenizer=load_tokenizer(model), objective="supervised", max_sequence_length=limit)


def assert_same(one: Rows | None, other: Rows) -> None:
    assert one is not None
    for name in caching.ARRAYS:
        assert np.array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert (one.sequences_per_row, asdict(one.notes)) == (other.sequences_per_row, asdict(other.notes))


def cache_of(directory: RunDirectory, shared: Path | None = None) -> RowCache:
    return RowCache(directory.tokens, shared=shared, recorder=Recorder(directory))


def told(directory: RunDirectory) -> list[str]:
    return [event["message"] for event in runs.events(directory)] if directory.events.exists() else []


def test_an_entry_gives_back_the_rows_and_all_that_was_noted_about_them(
    file: Path, model: Path, directory: RunDirectory
) -> None:
    rows = loaded(file, model, limit=20)
    assert rows.notes.truncated
    cache = cache_of(directory)
    assert cache.find("key", limit=20) is None
    assert_same(cache.keep(rows, "key", limit=20), rows)
    assert_same(cache.find("key", limit=20), rows)
    assert cache.find("another", limit=20) is None


def test_rows_that_no_limit_has_cut_serve_every_limit_that_cuts_none(
    file: Path, model: Path, directory: RunDirectory
) -> None:
    rows = loaded(file, model, limit=256)
    longest = int(rows.lengths().max())
    cache = cache_of(directory)
    cache.keep(rows, "key", limit=256)
    assert_same(cache.find("key", limit=longest), rows)
    assert cache.find("key", limit=longest - 1) is None
    cut = loaded(file, model, limit=longest - 1)
    cache.keep(cut, "key", limit=longest - 1)
    assert_same(cache.find("key", limit=longest - 1), cut)
    assert_same(cache.find("key", limit=longest), rows)


@pytest.mark.parametrize("position", [0, 40, -1, "half"])
def test_an_entry_that_was_altered_is_told_and_passed_over(
    file: Path, model: Path, directory: RunDirectory, position: int | str
) -> None:
    cache = cache_of(directory)
    cache.keep(loaded(file, model), "key", limit=256)
    (entry,) = directory.tokens.iterdir()
    content = bytearray(entry.read_bytes())
    if position == "half":
        content = content[: len(content) // 2]
    else:
        content[int(position)] ^= 1
    entry.write_bytes(content)
    assert cache.find("key", limit=256) is None
    assert [text for text in told(directory) if "altered on disk" in text]
    assert_same(cache.keep(loaded(file, model), "key", limit=256), loaded(file, model))


def renamed_to_its_content(entry: Path) -> Path:
    return entry.rename(entry.with_name(f"{entry.name.partition('.')[0]}.{sha256_of(entry)}.safetensors"))


@pytest.mark.parametrize("nonsense", [b"", b"{}", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_an_entry_of_nonsense_under_its_own_hash_is_passed_over_too(directory: RunDirectory, nonsense: bytes) -> None:
    cache = cache_of(directory)
    directory.tokens.mkdir()
    entry = directory.tokens / f"{caching._name('key', 256)}.0.safetensors"
    entry.write_bytes(nonsense)
    renamed_to_its_content(entry)
    assert cache.find("key", limit=256) is None


def test_bounds_that_lead_out_of_the_tokens_are_passed_over(file: Path, model: Path, directory: RunDirectory) -> None:
    rows = loaded(file, model)
    offsets = rows.offsets.copy()
    offsets[-1] += 1
    cache = cache_of(directory)
    broken = Rows(**{**vars(rows), "offsets": offsets})
    assert cache.keep(broken, "key", limit=256) is broken
    assert cache.find("key", limit=256) is None


def test_a_full_disk_costs_the_cache_and_not_the_run(
    file: Path, model: Path, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching, "save_file", full)
    rows = loaded(file, model)
    assert cache_of(directory).keep(rows, "key", limit=256) is rows
    assert "could not be kept" in told(directory)[0]
    assert list(directory.tokens.iterdir()) == []


def key(file: Path, model: Path, **settings: Any) -> str:
    template = load_tokenizer(model).chat_template
    return rows_key(file, model_folder=model, template=template, settings={**SETTINGS, **settings})


def test_whatever_changes_the_tokens_changes_the_key(file: Path, model: Path, tmp_path: Path) -> None:
    first = key(file, model)
    assert key(file, model) == first
    assert key(file, model, objective="dpo") != first
    assert key(file, model, on_long_row="refuse") != first
    assert key(file, model, stop_tokens=("<|im_end|>",)) != first

    other = shutil.copytree(model, tmp_path / "other")
    assert key(file, other) == first  # another folder with the same files
    (other / "model.safetensors").write_bytes(b"other weights")
    assert key(file, other) == first
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(settings | {"add_prefix_space": True}))
    assert key(file, other) != first

    with file.open("a") as stream:
        stream.write("\n")
    assert key(file, model) != first


def test_the_day_counts_only_for_a_template_that_can_print_it(file: Path, model: Path, tmp_path: Path) -> None:
    days = [date(2026, 1, 1), date(2026, 1, 2)]
    assert len({key(file, model, today=day) for day in days}) == 1
    dated = shutil.copytree(model, tmp_path / "dated")
    settings = json.loads((dated / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ strftime_now('%d') }}" + settings["chat_template"]
    (dated / "tokenizer_config.json").write_text(json.dumps(settings))
    assert len({key(file, dated, today=day) for day in days}) == 2


def test_another_version_of_the_code_that_parses_or_renders_has_other_keys(
    file: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = key(file, model)
    changed = [Path(shutil.copytree(room, tmp_path / room.name)) for room in caching.READ_BY]
    assert {room.name for room in changed} == {"datasets", "chat", "data"}
    monkeypatch.setattr(caching, "READ_BY", changed)
    assert key(file, model) == first
    seen = {first}
    for module in ("datasets/message_parser.py", "datasets/row_parser.py", "chat/conversation.py", "data/tokenize.py"):
        with (tmp_path / module).open("a") as source:
            source.write("# changed\n")
        seen.add(key(file, model))
    assert len(seen) == 5


class Tokenised:
    """Counts how often a file is read and tokenised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: list[str] = []
        self._load = session.load_rows
        monkeypatch.setattr(session, "load_rows", self)

    def __call__(self, path: Path, **named: Any) -> Rows:
        self.files.append(path.name)
        return self._load(path, **named)


def trained(root: Path, model: Path, *, token_cache: Path | None, **changes: Any) -> RunDirectory:
    made = runs.make_run(
        root,
        model=model,
        plan=plans.plan(epochs=1, **changes),
        validation=runs.chat_rows(4, offset=40),
        token_cache=None if token_cache is None else str(token_cache),
    )
    assert runs.train_here(made) == 0
    return made


def test_a_second_job_of_the_project_tokenises_nothing_and_trains_the_same(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenised = Tokenised(monkeypatch)
    store = TokenStore(tmp_path / "tokens", limit_bytes=2**30)
    shared = store.folder("acme")
    assert shared is not None
    first = trained(tmp_path / "first", model, token_cache=shared)
    assert tokenised.files == ["train.jsonl", "valid.jsonl"]
    store.adopt(first.tokens, project="acme")
    second = trained(tmp_path / "second", model, token_cache=shared)
    assert len(tokenised.files) == 2
    assert sum("tokenised by an earlier run" in text for text in told(second)) == 2
    plain = trained(tmp_path / "plain", model, token_cache=None)
    assert not plain.tokens.exists()
    assert len({sha256_of(run.output / RESULT) for run in (first, second, plain)}) == 1

    for entry in shared.iterdir():
        os.utime(entry, (1000, 1000))
    store.adopt(second.tokens, project="acme")
    assert all(entry.stat().st_mtime > 1000 for entry in shared.iterdir())


@pytest.mark.slow
def test_a_model_without_a_template_gets_the_same_one_when_its_rows_were_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_tiny_model(tmp_path / "model", chat_template=None)
    store = TokenStore(tmp_path / "tokens", limit_bytes=2**30)
    shared = store.folder("acme")
    assert shared is not None
    first = trained(tmp_path / "first", model, token_cache=shared)
    store.adopt(first.tokens, project="acme")
    tokenised = Tokenised(monkeypatch)
    second = trained(tmp_path / "second", model, token_cache=shared)
    assert tokenised.files == []
    templates = [load_tokenizer(run.output).chat_template for run in (first, second)]
    assert templates[0] == templates[1]
    assert templates[0]
    assert all(any("has no chat template" in text for text in told(run)) for run in (first, second))


@pytest.mark.slow
def test_an_altered_entry_costs_time_and_no_job(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TokenStore(tmp_path / "tokens", limit_bytes=2**30)
    shared = store.folder("acme")
    assert shared is not None
    first = trained(tmp_path / "first", model, token_cache=shared)
    store.adopt(first.tokens, project="acme")
    for entry in shared.iterdir():
        content = bytearray(entry.read_bytes())
        content[-9] ^= 1
        entry.chmod(0o600)
        entry.write_bytes(content)
    tokenised = Tokenised(monkeypatch)
    second = trained(tmp_path / "second", model, token_cache=shared)
    assert tokenised.files == ["train.jsonl", "valid.jsonl"]
    assert sum("altered on disk" in text for text in told(second)) == 2
    assert sha256_of(second.output / RESULT) == sha256_of(first.output / RESULT)
    store.adopt(second.tokens, project="acme")
    trained(tmp_path / "third", model, token_cache=shared)
    assert len(tokenised.files) == 2


@pytest.mark.slow
def test_of_several_processes_one_tokenises_and_the_others_read_what_it_has_made(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(world_size=3, epochs=1, rows_per_step=4)
    made = runs.make_run(tmp_path, model=model, plan=plan, validation=runs.chat_rows(4, offset=40))
    job: gang.Job = {"run": str(made.root), "processes": 3, "tokenises": 0}
    assert gang.train_all([job]) == [[0, 0, 0]], made.log.read_text()
    assert len(list(made.tokens.glob("*.safetensors"))) == 2
