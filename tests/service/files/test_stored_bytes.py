"""Bytes that nothing needs are deleted half a day later or a day, and no others."""

import asyncio
import os
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.control_plane import AttemptSide, ControlPlane, chat_rows, sha256
from tunesmith.service.blobs import store
from tunesmith.service.blobs.objects import BlobStore, path_of
from tunesmith.service.blobs.sweep import _erase
from tunesmith.service.database.transactions import Database
from tunesmith.service.keeper.unneeded_bytes import delete_unneeded_bytes
from tunesmith.tuning.messages import FileRef
from tunesmith.tuning.state import Outcome

LOOKS = 6000  # a few of which fall together with the last moment of an upload
CHECKPOINTS = 1000
READ_ONE_BY_ONE = "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'checkpoints'"  # so far


def folder(plane: ControlPlane) -> Path:
    return Path(plane.settings.store.removeprefix("file://"))


def is_there(plane: ControlPlane, digest: str) -> bool:
    """Whether row and object are there; there is never one of a row's without the other."""
    stored = bool(plane.sql("SELECT 1 FROM blobs WHERE sha256 = %s AND is_stored", digest))
    assert (folder(plane) / path_of(digest)).exists() == stored
    return stored


def let_a_day_pass(plane: ControlPlane) -> None:
    plane.sql("UPDATE blobs SET kept_until = kept_until - interval '25 hours'")
    plane.sql("UPDATE files SET deleted_at = deleted_at - interval '25 hours' WHERE deleted_at IS NOT NULL")


def sweep(plane: ControlPlane) -> int:
    return plane.keep(delete_unneeded_bytes)


def test_bytes_that_nothing_refers_to_are_deleted_after_a_day_and_not_before(control_plane: ControlPlane) -> None:
    file = control_plane.claimed().put(b"nobody's")
    assert sweep(control_plane) == 0
    assert is_there(control_plane, file.sha256)
    let_a_day_pass(control_plane)
    assert sweep(control_plane) == 1
    assert not is_there(control_plane, file.sha256)


def test_what_files_models_checkpoints_and_results_refer_to_is_kept(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    attempt.checkpoint(8)
    attempt.succeed()
    stored = [row[0] for row in control_plane.sql("SELECT sha256 FROM blobs")]
    assert len(stored) == 7  # rows, two of the base, a checkpoint, two of the result, its metrics
    for _ in range(2):
        let_a_day_pass(control_plane)
        assert sweep(control_plane) == 0
    assert all(is_there(control_plane, digest) for digest in stored)
    control_plane.request("DELETE", f"/v1/models/{control_plane.job(attempt.job_id)['fine_tuned_model']}")
    let_a_day_pass(control_plane)
    assert sweep(control_plane) == 0  # the job's result is still listed


def test_who_refers_to_bytes_is_found_by_an_index_however_many_checkpoints_there_are(
    control_plane: ControlPlane,
) -> None:
    attempt = control_plane.claimed()
    control_plane.sql(
        """
        INSERT INTO blobs (sha256, bytes) SELECT encode(sha256(n::text::bytea), 'hex'), 1 FROM generate_series(1, %s) n
        """,
        CHECKPOINTS,
    )
    control_plane.sql(
        """
        INSERT INTO checkpoints (id, job_id, attempt_id, step, manifest_sha256, files, metrics)
        SELECT 'c' || n, %s, %s, n, 'm',
               jsonb_build_array(jsonb_build_object('sha256', encode(sha256(n::text::bytea), 'hex'))), '{}'
        FROM generate_series(1, %s) n
        """,
        attempt.job_id,
        attempt.claim.attempt_id,
        CHECKPOINTS,
    )
    control_plane.sql("ANALYZE blobs, checkpoints")
    let_a_day_pass(control_plane)

    async def keep(database: Database) -> tuple[int, int]:
        async with database.transaction() as session:
            kept = await store.keep_referenced(session, limit=CHECKPOINTS)
            read = await (await session.connection()).exec_driver_sql(READ_ONE_BY_ONE)
            return kept, read.scalar_one()

    kept, rows_read = control_plane.run(keep)
    assert kept >= CHECKPOINTS
    assert rows_read <= CHECKPOINTS


def test_the_missing_files_of_a_model_that_is_being_uploaded_are_kept(control_plane: ControlPlane) -> None:
    contents = {"config.json": b"{}", "model.safetensors": b"weights", "more.safetensors": b"more"}
    files = [FileRef(name=name, sha256=sha256(data), bytes=len(data)).model_dump() for name, data in contents.items()]
    body = {"name": "slow", "files": files, "config": control_plane.sql("SELECT config FROM models")[0][0]}
    control_plane.request("POST", "/v1/models", key="admin", json=body)
    first = sha256(b"weights")
    assert control_plane.request("PUT", f"/v1/blobs/{first}", key="admin", content=b"weights").status_code == 204
    let_a_day_pass(control_plane)
    assert sweep(control_plane) == 0
    assert is_there(control_plane, first)


def test_parts_are_kept_as_long_as_their_upload_is_open(control_plane: ControlPlane) -> None:
    body = {"bytes": 100, "filename": "x", "mime_type": "text/plain", "purpose": "user_data"}
    upload = control_plane.request("POST", "/v1/uploads", json=body).json()["id"]
    control_plane.request("POST", f"/v1/uploads/{upload}/parts", files={"data": ("upload", b"a part")})
    let_a_day_pass(control_plane)
    assert sweep(control_plane) == 0
    assert is_there(control_plane, sha256(b"a part"))
    control_plane.sql("UPDATE uploads SET expires_at = now() - interval '1 second'")
    let_a_day_pass(control_plane)
    assert sweep(control_plane) == 1
    assert not is_there(control_plane, sha256(b"a part"))


def test_a_deleted_files_bytes_go_when_no_unfinished_job_needs_them(control_plane: ControlPlane) -> None:
    file_id = control_plane.upload()
    attempt = control_plane.claimed(training_file=file_id)
    control_plane.request("DELETE", f"/v1/files/{file_id}")
    let_a_day_pass(control_plane)
    assert sweep(control_plane) == 0
    assert attempt.get(sha256(chat_rows())).content == chat_rows()
    attempt.succeed()
    let_a_day_pass(control_plane)
    assert sweep(control_plane) == 1
    assert not is_there(control_plane, sha256(chat_rows()))
    assert control_plane.job(attempt.job_id)["training_file"] == file_id


def test_bytes_that_a_second_file_holds_survive_the_first(control_plane: ControlPlane) -> None:
    first, second = control_plane.upload(), control_plane.upload(key="stranger")
    control_plane.request("DELETE", f"/v1/files/{first}")
    let_a_day_pass(control_plane)
    assert sweep(control_plane) == 0
    assert control_plane.request("GET", f"/v1/files/{second}/content", key="stranger").content == chat_rows()


class TestCheckpoints:
    def kept_steps(self, attempt: AttemptSide) -> set[int]:
        rows = attempt.plane.sql("SELECT step, files FROM checkpoints")
        assert all(is_there(attempt.plane, file["sha256"]) for _, files in rows for file in files)
        return {step for step, files in rows if files}

    def test_of_an_unfinished_job_those_that_a_claim_offers_are_kept(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        for step in range(1, 7):
            attempt.checkpoint(step)
        let_a_day_pass(control_plane)
        assert sweep(control_plane) == 3
        assert self.kept_steps(attempt) == {4, 5, 6}
        attempt.finish(Outcome.PREEMPTED)
        again = control_plane.worker("w2").claim()
        assert again is not None
        assert [choice.step for choice in again.claim.resume] == [6, 5, 4]
        again.checkpoint(1)  # it could use none of them
        sweep(control_plane)
        assert self.kept_steps(attempt) == {1, 4, 5, 6}

    def test_a_day_after_the_end_the_list_is_what_is_left(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        attempt.checkpoint(5)
        attempt.succeed()
        sweep(control_plane)
        assert self.kept_steps(attempt) == {5}
        control_plane.sql(
            "SET session_replication_role = replica; UPDATE jobs SET finished_at = now() - interval '25 hours'"
        )
        let_a_day_pass(control_plane)
        assert sweep(control_plane) == 1
        assert self.kept_steps(attempt) == set()
        listed = control_plane.request("GET", f"/v1/fine_tuning/jobs/{attempt.job_id}/checkpoints").json()["data"]
        assert [(point["step_number"], point["metrics"]["valid_loss"]) for point in listed] == [(5, 1.5)]

    def test_its_bytes_outlive_its_row_by_half_a_day_however_old_they_are(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        attempt.checkpoint(1)
        ((first,),) = control_plane.sql("SELECT files->0->>'sha256' FROM checkpoints")
        control_plane.sql("UPDATE blobs SET kept_until = now() + interval '1 minute'")
        sweep(control_plane)
        for step in range(2, 5):
            attempt.checkpoint(step)
        sweep(control_plane)
        assert self.kept_steps(attempt) == {2, 3, 4}
        control_plane.sql("UPDATE blobs SET kept_until = kept_until - interval '12 hours'")
        assert sweep(control_plane) == 0
        assert is_there(control_plane, first)
        control_plane.sql("UPDATE blobs SET kept_until = kept_until - interval '12 hours'")
        assert sweep(control_plane) == 1
        assert not is_there(control_plane, first)


class TestUploads:
    def test_bytes_that_are_given_up_count_as_missing_and_can_be_sent_again(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        manifest = attempt.put(b"manifest 3")
        control_plane.sql("UPDATE blobs SET is_stored = false WHERE sha256 = %s", manifest.sha256)
        body = {"step": 3, "manifest_sha256": manifest.sha256, "files": [manifest.model_dump()], "metrics": {}}
        assert attempt.post("checkpoints", body).json()["error"]["code"] == "blob_missing"
        attempt.put(b"manifest 3")
        let_a_day_pass(control_plane)
        assert attempt.post("checkpoints", body).status_code == 204
        assert sweep(control_plane) == 0
        assert is_there(control_plane, manifest.sha256)

    def test_an_upload_keeps_the_bytes_that_it_is_about_to_write(self, control_plane: ControlPlane) -> None:
        file = control_plane.claimed().put(b"old")
        let_a_day_pass(control_plane)
        control_plane.sql("UPDATE blobs SET is_stored = false WHERE sha256 = %s", file.sha256)

        async def announce(database: object) -> None:
            async with database.transaction() as session:  # type: ignore[attr-defined]
                await store.announce(session, file.sha256)

        control_plane.run(announce)
        assert sweep(control_plane) == 0
        assert (folder(control_plane) / path_of(file.sha256)).exists()

    def test_bytes_that_were_sent_again_since_they_were_given_up_are_not_erased(
        self, control_plane: ControlPlane
    ) -> None:
        file = control_plane.claimed().put(b"given up, and sent again")
        blobs = BlobStore.from_url(control_plane.settings.store)
        assert not control_plane.run(lambda database: _erase(database, blobs, file.sha256))
        assert is_there(control_plane, file.sha256)

    def test_an_upload_that_fails_was_announced_and_is_forgotten_after_a_day(self, control_plane: ControlPlane) -> None:
        digest = sha256(b"promised")
        response = control_plane.request("PUT", f"/v1/blobs/{digest}", key="admin", content=b"other")
        assert response.json()["error"]["code"] == "hash_mismatch"
        announced = "SELECT is_stored, kept_until > now() FROM blobs WHERE sha256 = %s"
        assert control_plane.sql(announced, digest) == [(False, True)]
        let_a_day_pass(control_plane)
        sweep(control_plane)
        assert control_plane.sql(announced, digest) == []

    def test_what_killed_uploads_left_is_deleted_after_a_day(self, control_plane: ControlPlane) -> None:
        digest = sha256(b"whole, and never recorded")
        whole = folder(control_plane) / path_of(digest)
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(b"whole, and never recorded")
        control_plane.sql("INSERT INTO blobs (sha256, bytes, is_stored) VALUES (%s, 0, false)", digest)
        old, young = (whole.with_name(f"{digest}#{number}") for number in (1, 2))
        for partial in (old, young):
            partial.write_bytes(b"who")
        os.utime(old, (time.time() - 90_000,) * 2)
        let_a_day_pass(control_plane)
        assert sweep(control_plane) == 1
        assert [path.exists() for path in (whole, old, young)] == [False, False, True]
        young.unlink()

    def test_an_upload_that_is_complete_at_this_moment_keeps_no_other_from_being_looked_at(
        self, tmp_path: Path
    ) -> None:
        store = BlobStore.from_url(f"file://{tmp_path}")
        partial, whole = tmp_path / f"{path_of('a' * 64)}#1", tmp_path / path_of("a" * 64)
        partial.parent.mkdir(parents=True)

        def write() -> None:
            while not over.is_set():
                partial.touch()
                partial.rename(whole)

        async def look() -> list[int]:
            return [await store.delete_partial_uploads(older_than=timedelta(days=1)) for _ in range(LOOKS)]

        over, writing = threading.Event(), threading.Thread(target=write)
        writing.start()
        try:
            assert asyncio.run(look()) == [0] * LOOKS
        finally:
            over.set()
            writing.join()

    @pytest.mark.parametrize("bytes_", [0, 10**15])
    def test_a_length_that_is_not_that_of_the_stored_bytes_is_refused(
        self, control_plane: ControlPlane, bytes_: int
    ) -> None:
        attempt = control_plane.claimed()
        file = attempt.put(b"weights", name="adapter_model.safetensors").model_copy(update={"bytes": bytes_})
        refused = attempt.post("artifacts", {"kind": "adapter", "files": [file.model_dump()]}).json()["error"]
        assert refused["code"] == "length_mismatch"
        assert f"has 7 bytes, not {bytes_}" in refused["message"]

    def test_weights_beyond_the_limit_are_refused_and_leave_nothing(self, control_plane: ControlPlane) -> None:
        state = control_plane.app.state
        settings = state.settings
        state.settings = settings.model_copy(update={"max_blob_bytes": 1000})
        try:
            data = b"x" * 1001
            refused = control_plane.request("PUT", f"/v1/blobs/{sha256(data)}", key="admin", content=data)
        finally:
            state.settings = settings
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")
        assert not is_there(control_plane, sha256(data))
