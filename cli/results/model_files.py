"""Files of a model that the service has, brought to a folder here."""

from functools import partial
from pathlib import Path

from tunesmith.cli.client import Client
from tunesmith.cli.results.download import Download, fetch, safe_target
from tunesmith.tuning.api.base import recorded
from tunesmith.tuning.messages import FileRef


def fetch_model_files(client: Client, model: str, *, folder: Path, but: tuple[str, ...] = ()) -> list[Path]:
    """Write them to `folder`, except those whose names end in one of `but`; none where only a shape is registered.

    Raises:
        UnsafeName, DamagedDownload: as for artifacts.
    """
    files = [recorded(FileRef, file) for file in client.model(model).tunesmith.files]
    return fetch(
        [
            Download(
                file=file, target=safe_target(folder, file.name), open=partial(client.model_file, model, file.sha256)
            )
            for file in files
            if not file.name.endswith(but)
        ]
    )
