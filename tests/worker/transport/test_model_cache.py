"""A base model is fetched once for all jobs, whole or not at all."""

import mmap
import os
import threading
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_SECONDS
from tests.worker.conftest import ref
from tests.worker.scripted_service import Reply, Request, ScriptedService
from tunesmith.tuning.messages import set_digest
from tunesmith.worker.hashes import Seal, sealed_sha256, sha256_of
from tunesmith.worker.transport import model_cache
from tunesmith.worker.transport.control import HttpAttemptControl
from tunesmith.worker.transport.model_cache import ModelCache
from tunesmith.worker.transport.retry import Unavailable

CONTENTS = {"config.json": b"{}", "weights/one.safetensors": b"w" * 5000, "tokenizer.json": b"[]"}
FILES = tuple(ref(name, content) for name, content in CONTENTS.items())


@pytest.fixture
def cache(tmp_path: Path, service: ScriptedService) -> ModelCache:
    blobs = {file.sha256: CONTENTS[file.name] for file in FILES}

    def answer(request: Request) -> Reply:
        content = blobs.get(request.path.rpartition("/")[2])
        return Reply.error(404, "blob_not_found") if content is None else Reply(200, content)

    service.otherwise = answer
    return ModelCache(tmp_path)


def test_a_model_is_fetched_once(cache: ModelCache, control: HttpAttemptControl, service: ScriptedService) -> None:
    assert cache.missing_bytes(FILES) == sum(file.bytes for file in FILES)
    folder = cache.fetch(FILES, control)
    assert cache.fetch(tuple(reversed(FILES)), control) == folder
    assert {name: (folder / name).read_bytes() for name in CONTENTS} == CONTENTS
    assert cache.missing_bytes(FILES) == 0
    assert len(service.requests) == len(FILES)


def test_two_jobs_that_want_the_same_model_at_once_share_one_fetch(
    cache: ModelCache, control: HttpAttemptControl, service: ScriptedService
) -> None:
    found: list[Path] = []
    jobs = [threading.Thread(target=lambda: found.append(cache.fetch(FILES, control))) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(PATIENCE_SECONDS)
    assert len(set(found)) == 1
    assert len(found) == 4
    assert len(service.requests) == len(FILES)


def test_a_broken_fetch_leaves_no_model_and_goes_on_later(
    cache: ModelCache, control: HttpAttemptControl, service: ScriptedService
) -> None:
    service.script(FILES[2].sha256, Reply.error(503, "service_unavailable"))
    with pytest.raises(Unavailable):
        cache.fetch(FILES, control)
    assert cache.missing_bytes(FILES) > 0
    cache.fetch(FILES, control)
    assert len(service.to(FILES[0].sha256)) == 1, "what had arrived did not come again"


def test_a_cut_off_file_in_the_cache_is_fetched_again(cache: ModelCache, control: HttpAttemptControl) -> None:
    folder = cache.fetch(FILES, control)
    (folder / "config.json").write_bytes(b"")
    assert (cache.fetch(FILES, control) / "config.json").read_bytes() == b"{}"


def test_an_altered_file_in_the_cache_is_fetched_again_even_when_it_looks_the_same(
    cache: ModelCache, control: HttpAttemptControl
) -> None:
    weights = cache.fetch(FILES, control) / "weights/one.safetensors"
    before = weights.stat()
    weights.write_bytes(b"x" * before.st_size)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    fetched = cache.fetch(FILES, control) / "weights/one.safetensors"
    assert fetched.read_bytes() == CONTENTS["weights/one.safetensors"]


def test_a_cache_of_an_earlier_start_is_verified_before_it_is_used(
    cache: ModelCache, control: HttpAttemptControl, tmp_path: Path
) -> None:
    """What trainers of that start did to its files nobody has seen."""
    weights = cache.fetch(FILES, control) / "weights/one.safetensors"
    weights.write_bytes(b"x" * 5000)
    assert (ModelCache(tmp_path).fetch(FILES, control) / "weights/one.safetensors").read_bytes() == b"w" * 5000


def test_an_unaltered_file_is_hashed_once(
    cache: ModelCache, control: HttpAttemptControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.fetch(FILES, control)
    hashed: list[Path] = []
    monkeypatch.setattr(model_cache, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    later = ModelCache(tmp_path)
    for found in (later.fetch(FILES, control), later.fetch(FILES, control), cache.fetch(FILES, control)):
        seals = later.seals(FILES)
        assert {name: seals[str(found / name)].sha256 for name in CONTENTS} == {f.name: f.sha256 for f in FILES}
    assert sorted(path.name for path in hashed) == sorted(Path(name).name for name in CONTENTS)


def test_a_seal_breaks_with_the_smallest_write_through_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"w" * 8192)
    seal = Seal.on(file, sha256=sha256_of(file))
    assert seal.is_intact(file)
    wait_for_the_clock_of(tmp_path, later_than_ns=seal.changed_ns)
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        mapped[5000] = ord("x")
    assert not seal.is_intact(file)
    assert sealed_sha256(file, {str(file): seal}) == sha256_of(file) != seal.sha256


def wait_for_the_clock_of(folder: Path, *, later_than_ns: int) -> None:
    """The kernel stamps files by a clock that ticks every few milliseconds."""
    ticking = folder / "tick"
    while not ticking.exists() or ticking.stat().st_ctime_ns <= later_than_ns:
        ticking.unlink(missing_ok=True)
        ticking.touch()


def test_a_name_that_leads_out_of_the_folder_is_refused(
    cache: ModelCache, control: HttpAttemptControl, service: ScriptedService
) -> None:
    with pytest.raises(ValueError, match="relative"):
        cache.fetch((ref("../../evil", b"{}"),), control)
    assert service.requests == []


def test_the_name_of_a_set_depends_on_names_and_bytes() -> None:
    assert set_digest(FILES) == set_digest(tuple(reversed(FILES)))
    renamed = (FILES[0].model_copy(update={"name": "other.json"}), *FILES[1:])
    assert set_digest(FILES) != set_digest(renamed)
