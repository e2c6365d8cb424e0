"""Reading what a job asks for: its model and files must exist and suit each other, whoever wants to know."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from service.files import store as files
from service.files.intake import TRAINING_PURPOSE
from service.jobs.schemas import JobRequest
from service.models import store as models
from service.plans import lessons
from service.tables import File, Model
from service.workers.machines import Wanted
from tuning.checks import impossible
from tuning.errors import DoesNotFit, InvalidRequest, InvalidTrainingFile, NotFound
from tuning.job import DatasetFacts, JobSpec, Objective
from tuning.rows import RowReport
from tuning.shape import ModelShape


@dataclass(frozen=True)
class Asked:
    """A request that could run somewhere."""

    model: Model
    wanted: Wanted


async def read(session: AsyncSession, request: JobRequest, *, training_file: str, project: str, seed: int) -> Asked:
    """Find and check everything that the request names. `seed` is used when it chose none.

    Raises:
        InvalidRequest: with the field that must change.
        DoesNotFit: no hardware whatever could do it.
    """
    model = await models.find_ready(session, request.model, project=project)
    spec = request.to_spec(seed=seed)
    training = await _usable_file(session, training_file, "training_file", spec=spec, project=project)
    validation = None
    if request.validation_file is not None:
        validation = await _usable_file(session, request.validation_file, "validation_file", spec=spec, project=project)
    return await suited(session, model, spec=spec, dataset=_facts(training, validation))


async def suited(session: AsyncSession, model: Model, *, spec: JobSpec, dataset: DatasetFacts) -> Asked:
    """The same for data of which only the counts are known.

    Raises:
        DoesNotFit: no hardware whatever could do it.
    """
    learned = await lessons.learn(session)
    wanted = Wanted(
        spec=spec, dataset=dataset, shape=ModelShape.from_config(model.config), corrections=learned.about(model)
    )
    if refusal := impossible(spec=wanted.spec, shape=wanted.shape, dataset=wanted.dataset):
        raise DoesNotFit(refusal.text, param=_blamed(refusal.reasons[0].rule))
    return Asked(model, wanted)


async def _usable_file(session: AsyncSession, file_id: str, param: str, *, spec: JobSpec, project: str) -> File:
    try:
        file = await files.find(session, file_id, project=project)
    except NotFound:
        raise InvalidRequest(f"The file {file_id!r} does not exist.", code="file_not_found", param=param) from None
    if file.purpose != TRAINING_PURPOSE:
        message = f"The file {file_id} has purpose {file.purpose!r}; it must be {TRAINING_PURPOSE!r}."
        raise InvalidTrainingFile(message, code="invalid_file_purpose", param=param)
    if file.status == "error":
        raise InvalidTrainingFile(f"The file {file_id} cannot be used. {file.status_details}", param=param)
    report = _report(file)
    if report.kind != (spec.objective if spec.objective is Objective.DPO else "supervised"):
        wanted = "preference pairs" if spec.objective is Objective.DPO else "chat, prompt and completion, or text"
        message = f"Method {spec.objective.value!r} needs {wanted}; {file_id} holds {report.format} rows."
        raise InvalidTrainingFile(message, param=param)
    return file


def _facts(training: File, validation: File | None) -> DatasetFacts:
    return _report(training).facts(validation_rows=_report(validation).rows if validation else 0)


def _report(file: File) -> RowReport:
    return RowReport.model_validate({key: value for key, value in (file.report or {}).items() if key != "kind"})


def _blamed(rule: str) -> str:
    return {"data": "training_file", "context-length": "tunesmith.max_seq_length"}.get(
        rule, "tunesmith.lora.target_modules"
    )
