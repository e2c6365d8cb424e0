"""Files of rows as verbs take them: a path here, which is uploaded once, or the id of a file in the service."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tunesmith.cli.learning import is_file_id

if TYPE_CHECKING:
    from tunesmith.cli.client import Client


def file_id(client: "Client", source: str) -> str:
    """The id of the file in the service: an identical file that is already there is not sent again.

    That also keeps the body of a repeated submit the same, which an idempotency key insists on.

    Raises:
        InvalidTrainingFile: its rows cannot be used, with their lines.
    """
    from tunesmith.cli.data.conversion import as_json_lines

    if is_file_id(source):
        return source
    with as_json_lines(Path(source)) as path:
        return _uploaded(client, path, source=source)


def require_source(source: str, what: str) -> None:
    """What is named must be a file here, or the id of one there.

    Raises:
        typer.BadParameter: it is neither; `what` is the option.
    """
    if not Path(source).is_file() and not is_file_id(source):
        raise typer.BadParameter(f"{source} is neither a file here nor a file id.", param_hint=what)


def _uploaded(client: "Client", path: Path, *, source: str) -> str:
    from tunesmith.cli.models.hashing import sha256_of
    from tunesmith.cli.progress import transfer, watched
    from tunesmith.tuning.errors import InvalidTrainingFile

    sha256 = sha256_of(path)
    for known in client.list_files(purpose="fine-tune"):
        if known.tunesmith.sha256 == sha256 and known.status == "processed":
            return known.id
    with transfer(f"upload {path.name}", total_bytes=path.stat().st_size) as advance:
        file = client.upload_file(path, wrap=lambda stream: watched(stream, advance))
    if file.status == "error":
        raise InvalidTrainingFile(
            f"{source} cannot be trained on: {file.status_details}",
            param="training_file",
            hint=f"correct the lines named above and submit again; it is kept as {file.id}",
        )
    return file.id
