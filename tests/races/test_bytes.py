"""Uploads, references, deletions and sweeps at random: what a row refers to is in the store, at every moment."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.control_plane import AttemptSide, ControlPlane
from tunesmith.service.blobs.objects import path_of
from tunesmith.service.keeper.unneeded_bytes import delete_unneeded_bytes

_CONTENTS = [f"content {number}".encode() * 40 for number in range(8)]  # few, so that all meet on the same bytes
_ROUNDS = 12

_REFERENCES = """
SELECT file->>'sha256' FROM checkpoints, jsonb_array_elements(files) file
UNION SELECT file->>'sha256' FROM artifacts, jsonb_array_elements(files) file
UNION SELECT blob_sha256 FROM files WHERE deleted_at IS NULL
"""


class Uploading:
    """Uploads on their way. A day passes between them: none takes so long, but what follows one may."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._changed = threading.Condition()
        self._count = 0

    @contextmanager
    def upload(self) -> Iterator[None]:
        with self._changed:
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def let_a_day_pass(self) -> None:
        with self._changed:  # nobody begins meanwhile
            self._changed.wait_for(lambda: self._count == 0)
            self._plane.sql("UPDATE blobs SET kept_until = kept_until - interval '25 hours'")
        self._plane.sql("UPDATE files SET deleted_at = deleted_at - interval '25 hours' WHERE deleted_at IS NOT NULL")


def checkpoints(attempt: AttemptSide, uploading: Uploading, chance: random.Random) -> None:
    """Register sets of files under few steps, so that most replace an earlier one; a refused set is sent again."""
    for _ in range(_ROUNDS):
        contents = chance.sample(_CONTENTS, 2)
        for _ in range(20):
            with uploading.upload():
                files = [attempt.put(data, name=f"{number}.bin") for number, data in enumerate(contents)]
            body = {"step": chance.randint(1, 5), "manifest_sha256": files[0].sha256, "metrics": {}}
            response = attempt.post("checkpoints", {**body, "files": [file.model_dump() for file in files]})
            if response.status_code == 204:
                break
            assert response.json()["error"]["code"] == "blob_missing", response.text


def user_files(plane: ControlPlane, uploading: Uploading, chance: random.Random) -> None:
    """Upload files of the same bytes and delete some of them."""
    for _ in range(_ROUNDS):
        with uploading.upload():
            form = {"data": {"purpose": "user_data"}, "files": {"file": ("x", chance.choice(_CONTENTS))}}
            response = plane.request("POST", "/v1/files", **form)
        assert response.status_code == 200, response.text
        if chance.random() < 0.7:
            plane.request("DELETE", f"/v1/files/{response.json()['id']}")


@pytest.mark.parametrize("seed", [1, 2])
def test_no_bytes_that_a_row_refers_to_are_ever_missing(control_plane: ControlPlane, seed: int) -> None:
    chance = random.Random(seed)
    uploading = Uploading(control_plane)
    attempt = control_plane.claimed()
    folder = Path(control_plane.settings.store.removeprefix("file://"))

    def work() -> list[Callable[[], None]]:
        return [
            lambda: checkpoints(attempt, uploading, random.Random(chance.random())),
            lambda: checkpoints(attempt, uploading, random.Random(chance.random())),
            lambda: user_files(control_plane, uploading, random.Random(chance.random())),
        ]

    failures: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in work()]
    for thread in threads:
        thread.start()
    swept = 0
    while any(thread.is_alive() for thread in threads):
        uploading.let_a_day_pass()
        swept += control_plane.keep(delete_unneeded_bytes)
    assert failures == []
    assert swept > 0
    referred = [row[0] for row in control_plane.sql(_REFERENCES)]
    assert referred
    assert [digest for digest in referred if not (folder / path_of(digest)).exists()] == []
    stored = {row[0] for row in control_plane.sql("SELECT sha256 FROM blobs WHERE is_stored")}
    assert set(referred) <= stored
    uploading.let_a_day_pass()
    control_plane.keep(delete_unneeded_bytes)
    left = {path.name for path in (folder / "blobs").glob("*/*")}
    assert {digest for digest in left if (folder / path_of(digest)).read_bytes() in _CONTENTS} <= set(referred)
