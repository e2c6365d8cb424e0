"""What the job of a firing is made of: rows, a model to start from, settings. Looked up anew for each firing."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.aliases import store as aliases
from tunesmith.service.aliases.resolve import resolve
from tunesmith.service.database.tables import Alias, File, Firing, Model
from tunesmith.service.files import store as files
from tunesmith.service.models import store as models
from tunesmith.service.schedules.schemas import DataSource, ScheduleSettings
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.tuning.words import StartFrom


@dataclass(frozen=True)
class Ingredients:
    """Enough to make the job, and to tell whether another one was made of the same."""

    file: File
    model: Model
    champion: str | None
    settings_sha256: str

    def record(self, firing: Firing) -> None:
        """Write down what was found."""
        firing.training_file, firing.data_sha256 = self.file.id, self.file.blob_sha256
        firing.base_model, firing.base_digest = self.model.name, self.model.digest
        firing.settings_sha256, firing.champion = self.settings_sha256, self.champion
        if firing.source is None:
            firing.source = {"file": self.file.id, "filename": self.file.filename, "sha256": self.file.blob_sha256}

    def are_those_of(self, last: Firing) -> bool:
        """Whether that firing's job was made of the same. Its own result as the base brings nothing new either."""
        same_base = self.model.digest == last.base_digest or self.model.job_id == last.job_id
        same_rows = last.data_sha256 == self.file.blob_sha256
        return same_rows and same_base and last.settings_sha256 == self.settings_sha256


async def find_ingredients(
    session: AsyncSession, settings: ScheduleSettings, firing: Firing, *, project: str, meant_by: Callable[[str], str]
) -> Ingredients:
    """Look everything up. The model is kept from being deleted until the transaction ends.

    Raises:
        InvalidRequest: something that the schedule names is not there.
    """
    file = await find_file(session, settings, firing, project=project)
    name = await find_model_name(session, settings, project=project, meant_by=meant_by)
    model = await models.find_ready(session, name, project=project)
    champion = await aliases.model_of(session, settings.alias, project=project) if settings.alias else None
    return Ingredients(file, model, champion, settings_sha256=_sha256_of(settings))


async def find_file(session: AsyncSession, settings: ScheduleSettings, firing: Firing, *, project: str) -> File:
    """The rows to train on, at this moment; those that were fetched for the firing if there are any.

    Raises:
        InvalidRequest: there is no such file.
    """
    data = settings.data
    if data.url is not None and firing.training_file is not None:
        return await files.find(session, firing.training_file, project=project)
    if data.file is not None:
        return await files.find(session, data.file, project=project)
    newest = await files.find_newest(session, project=project, filename=data.filename, labels=data.metadata)
    if newest is None:
        raise InvalidRequest(
            f"There is no training file {_wanted(data)}.",
            code=ErrorCode.FILE_NOT_FOUND,
            param="data",
            hint="Upload one with purpose fine-tune: tunesmith files add.",
        )
    return newest


async def find_model_name(
    session: AsyncSession, settings: ScheduleSettings, *, project: str, meant_by: Callable[[str], str]
) -> str:
    """What the job starts from: the champion where it is asked for and there has ever been one.

    `meant_by` tells which model the operator lets a name mean.

    Raises:
        InvalidRequest: the alias was deleted, or stands for nothing.
    """
    if settings.start_from is StartFrom.CHAMPION and settings.alias is not None:
        alias = await session.get(Alias, (project, settings.alias))
        if alias is not None:
            return await resolve(session, settings.alias, project=project, param="alias")
    return await resolve(session, meant_by(settings.job.model), project=project, param="job.model")


def _wanted(data: DataSource) -> str:
    if data.filename is not None:
        return f"named {data.filename!r}"
    labels = ", ".join(f"{key}={value}" for key, value in (data.metadata or {}).items())
    return f"with {labels}"


def _sha256_of(settings: ScheduleSettings) -> str:
    """Of what the job is asked to do, but for labels and for the name of a base, whose bytes are compared instead."""
    asked = settings.job.model_dump(mode="json", exclude={"model", "metadata"})
    return sha256_of_text(json.dumps(asked, sort_keys=True, separators=(",", ":")))
