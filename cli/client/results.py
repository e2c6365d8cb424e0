"""The calls about what a job leaves: artifacts and checkpoints, with their files."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from urllib.parse import quote

from tunesmith.cli.client.transport import Transport, job_path
from tunesmith.tuning.api.artifacts import ArtifactList, ArtifactObject
from tunesmith.tuning.api.history import CheckpointObject, CheckpointPage
from tunesmith.tuning.values.json_objects import present


class ResultCalls(Transport):
    """List results and read their files."""

    def artifacts(self, job_id: str) -> list[ArtifactObject]:
        """Every result of the job with its files."""
        return self.ask(ArtifactList, "GET", f"{job_path(job_id)}/artifacts").data

    def artifact_file(self, artifact_id: str, name: str) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of one file of a result, in pieces."""
        return self.pieces(f"/artifacts/{quote(artifact_id, safe='')}/files/{quote(name)}")

    def checkpoints(self, job_id: str) -> Iterator[CheckpointObject]:
        """The job's checkpoints, the highest step first, page by page."""
        after: str | None = None
        while True:
            path = f"{job_path(job_id)}/checkpoints"
            page = self.ask(CheckpointPage, "GET", path, params=present(limit=100, after=after))
            yield from page.data
            if not page.has_more or not page.data:
                return
            after = page.data[-1].id

    def checkpoint_file(self, job_id: str, checkpoint_id: str, name: str) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of one file of a checkpoint, in pieces."""
        return self.pieces(f"{job_path(job_id)}/checkpoints/{quote(checkpoint_id, safe='')}/files/{quote(name)}")
