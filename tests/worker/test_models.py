"""A base model is fetched once for all jobs, whole or not at all."""

import threading
from pathlib import Path

import pytest

from tests.worker.conftest import ref
from tests.worker.scripted_service import Reply, Request, ScriptedService
from worker.control import HttpAttemptControl
from worker.models import ModelCache, set_digest
from worker.retry import Unavailable

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
        job.join(20)
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
