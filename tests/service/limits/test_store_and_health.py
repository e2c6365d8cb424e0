"""A store that fails, leftovers of uploads, and questions about the health."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError

from tests.control_plane import ControlPlane
from tests.service.limits.application import ask
from tunesmith.service.app import create_app
from tunesmith.service.blobs.objects import unavailable
from tunesmith.service.database import migrate
from tunesmith.service.files.spool import own_folder
from tunesmith.service.settings import Settings
from tunesmith.service.web.health import LastLook
from tunesmith.tuning.api.health import Readiness

READY = ("GET", "/readyz", dict[str, Any]())


def test_a_store_that_fails_is_503_wherever_it_is_needed(
    plane: ControlPlane, settings: Settings, tmp_path: Path
) -> None:
    file_id = plane.upload()
    app = create_app(settings)
    (tmp_path / "store" / "blobs").write_text("where a folder should be")
    form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("rows.jsonl", b'{"text": "x"}\n')}}
    blob = f"/v1/blobs/{'0' * 64}"
    answers = asyncio.run(
        ask(
            app,
            ("POST", "/v1/files", form),
            ("PUT", blob, {"content": b"x"}),
            ("GET", f"/v1/files/{file_id}/content", {}),
            key=plane.keys["admin"],
        )
    )
    for answer in answers:
        assert answer.status_code == 503, answer.text
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "object_store_unavailable"


def test_a_store_that_takes_no_bytes_is_not_ready(plane: ControlPlane, settings: Settings, tmp_path: Path) -> None:
    app = create_app(settings)
    (tmp_path / "store" / "blobs").write_text("where a folder should be")
    (answer,) = asyncio.run(ask(app, ("GET", "/readyz", {}), key=plane.keys["admin"]))
    assert answer.status_code == 503
    assert answer.json()["checks"]["store"] != "ok"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _url: "postgresql://127.0.0.1:9/x", "it cannot be reached"),
        (lambda url: re.sub("password=[^&]*", "password=wrong", url), "refuses the user or the password"),
        (lambda url: re.sub("///[^?]*", "///elsewhere", url), "no such user or database"),
    ],
)
def test_readiness_says_what_is_wrong_with_the_database_and_no_secret(
    settings: Settings, change: Callable[[str], str], said: str
) -> None:
    url = change(settings.database_url)
    (answer,) = asyncio.run(ask(create_app(settings.model_copy(update={"database_url": url})), READY, key="ts-none"))
    assert (answer.status_code, said in answer.json()["checks"]["database"]) == (503, True), answer.text
    assert "password=" not in answer.text


@pytest.mark.parametrize(
    ("revision", "said"), [("0099", "newer than this program"), ("0019", "run `tunesmith-service migrate`")]
)
def test_readiness_says_which_way_the_schema_differs(revision: str, said: str) -> None:
    problem = migrate.problem(revision)
    assert problem is not None
    assert said in problem


def test_a_full_store_has_a_code_of_its_own() -> None:
    words = "Generic LocalFileSystem error: Unable to copy data to file: No space left on device (os error 28)"
    error = unavailable(GenericError(words))
    assert (error.http_status, error.code) == (503, "disk_full")


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = tmp_path / "serve-dead"
    dead.mkdir()
    (dead / "upload").write_bytes(b"x")
    with own_folder(tmp_path) as first:
        (first / "upload").write_bytes(b"x")
        assert not dead.exists()
        with own_folder(tmp_path) as second:
            assert (first / "upload").exists()
        assert not second.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ends_keeps_no_other_from_starting(tmp_path: Path) -> None:
    def start_and_end(_process: int) -> None:
        for _ in range(1000):
            with own_folder(tmp_path):
                pass

    with ThreadPoolExecutor(3) as processes:
        list(processes.map(start_and_end, range(3)))
    assert list(tmp_path.iterdir()) == []


def test_many_who_ask_at_once_cause_one_look() -> None:
    looks = 0
    now = 0.0

    async def look() -> Readiness:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.01)
        return Readiness(status="ready", version="1", checks={}, store_free_bytes=None)

    async def run() -> None:
        nonlocal now
        last = LastLook(fresh_seconds=1, clock=lambda: now)
        await asyncio.gather(*(last.of(look) for _ in range(50)))
        assert looks == 1
        now = 1.5
        await last.of(look)

    asyncio.run(run())
    assert looks == 2
