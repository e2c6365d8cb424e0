"""Registers a checked folder: hash, announce, send what the store lacks, announce again until it is ready."""

from tunesmith.cli.client import Client, ServiceError
from tunesmith.cli.models.folder import ModelFolder
from tunesmith.cli.models.hashing import sha256_of
from tunesmith.cli.models.measure import with_shape
from tunesmith.cli.progress import transfer, watched
from tunesmith.tuning.api.models import ModelObject
from tunesmith.tuning.models.config_reader import as_json
from tunesmith.tuning.models.hub import HubCommit
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.values.units import plural

_ROUNDS = 3  # more than two only when the store loses blobs between the rounds


def register(client: Client, name: str, folder: ModelFolder, *, hub: HubCommit | None = None) -> ModelObject:
    """Register the folder under `name` and return the model; only files the store lacks are sent.

    `hub` is where it comes from; adapters that are made on it will say so.

    Raises:
        ServiceError: the service refuses, or still misses files after all were sent.
    """
    files = _hashed(folder)
    body: Json = {"name": name, "files": files, "config": as_json(with_shape(folder.config))}
    if hub is not None:
        body["hub"] = hub.model_dump()
    for _ in range(_ROUNDS):
        model = client.register_model(body)
        if model.tunesmith.status == "ready":
            return model
        _send(client, folder, files, missing=set(model.tunesmith.missing))
    raise ServiceError(
        f"The service still misses files of {name} after they were sent.",
        http_status=500,
        hint="look at the object store: is the disk full?",
    )


def _hashed(folder: ModelFolder) -> list[Json]:
    with transfer(f"hash {plural(len(folder.files), 'file')}", total_bytes=folder.total_bytes) as advance:
        return [
            {
                "name": name,
                "sha256": sha256_of(folder.path / name, advance=advance),
                "bytes": (folder.path / name).stat().st_size,
            }
            for name in folder.files
        ]


def _send(client: Client, folder: ModelFolder, files: list[Json], *, missing: set[str]) -> None:
    wanted = {file["sha256"]: file for file in files if file["sha256"] in missing}
    total_bytes = sum(file["bytes"] for file in wanted.values())
    with transfer(f"send {plural(len(wanted), 'file')}", total_bytes=total_bytes) as advance:
        for sha256, file in wanted.items():
            client.put_blob(sha256, folder.path / file["name"], wrap=lambda stream: watched(stream, advance))
