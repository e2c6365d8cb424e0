"""Reading what a job asks for: its model and files must exist and suit each other, whoever wants to know."""

from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.aliases.resolve import resolve
from tunesmith.service.database.tables import File, Job, Model
from tunesmith.service.database.transactions import once
from tunesmith.service.files import store as files
from tunesmith.service.files.intake import TRAINING_PURPOSE
from tunesmith.service.models import store as models
from tunesmith.service.planning import corrections
from tunesmith.service.planning.fit import PlanningQuery
from tunesmith.tuning.api.requests.jobs import JobRequest
from tunesmith.tuning.codes import ArtifactKind, ErrorCode
from tunesmith.tuning.datasets.doctor.row_sample import overlap
from tunesmith.tuning.datasets.held_out import with_held_out_rows
from tunesmith.tuning.datasets.rows import RowReport
from tunesmith.tuning.datasets.token_scale import TokenScale
from tunesmith.tuning.errors import DoesNotFit, InvalidRequest, InvalidTrainingFile, NotFound
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Lora, PlanRule
from tunesmith.tuning.planner.checks import check_targets, impossible
from tunesmith.tuning.recipe.continue_from_adapter import continued
from tunesmith.tuning.values.units import plural
from tunesmith.tuning.words import Objective

_SAYS_NOTHING = "What is measured on them says nothing about rows that the model has not seen."


@dataclass(frozen=True)
class PlannableJob:
    """A request that could run somewhere."""

    model: Model
    wanted: PlanningQuery
    warnings: tuple[str, ...] = ()  # what one should know of the data, and that refuses nothing


async def read(
    session: AsyncSession,
    request: JobRequest,
    *,
    training_file: str,
    project: str,
    seed: int,
    scale: TokenScale | None = None,
    to_train: bool = True,
) -> PlannableJob:
    """Find and check everything that the request names. `seed` is used when it chose none.

    Tokens are estimates, corrected by `scale` where the model's tokenizer has counted some rows.

    A model of which only the shape is known will do unless the request is `to_train`.

    Raises:
        InvalidRequest: with the field that must change.
        DoesNotFit: no hardware whatever could do it.
    """
    find = models.find_ready if to_train else models.find_plannable
    alias = (resolve, request.model, project)
    meant = await once(session, alias, lambda: resolve(session, request.model, project=project))
    model = await once(session, (find, meant, project), lambda: find(session, meant, project=project))
    request = request.model_copy(update={"model": model.name})
    training = await _file(session, training_file, "training_file", project=project)
    spec = await spec_of(session, request, model=model, seed=seed, objective=Objective(report_of(training).kind))
    check_rows(training, "training_file", objective=spec.objective)
    validation = None
    if request.validation_file is not None:
        validation = await _file(session, request.validation_file, "validation_file", project=project)
        check_rows(validation, "validation_file", objective=spec.objective)
    facts = _facts(training, validation)
    found = await check_fits_model(session, model, spec=spec, dataset=scale.applied(facts) if scale else facts)
    return replace(found, warnings=shared_rows(training, validation) if validation else ())


async def spec_of(
    session: AsyncSession,
    request: JobRequest,
    *,
    model: Model,
    seed: int,
    objective: Objective = Objective.SUPERVISED,
) -> JobSpec:
    """The job as the planner sees it. One that starts from an adapter keeps the adapter and its shape.

    `objective` is what the rows are for; the request's own counts more.

    Raises:
        InvalidRequest: it asks for a method or a shape that would throw the adapter away.
    """
    spec = request.to_spec(seed=seed, objective=objective)
    if model.kind != ArtifactKind.ADAPTER:
        return spec
    maker = await session.get(Job, model.job_id) if model.job_id else None
    numbers = (maker.plan or {}).get("lora") if maker is not None else None
    return continued(spec, Lora.model_validate(numbers) if numbers else None)


async def check_fits_model(
    session: AsyncSession, model: Model, *, spec: JobSpec, dataset: DatasetFacts
) -> PlannableJob:
    """The same for data of which only the counts are known.

    Raises:
        InvalidRequest: an adapter is asked for on modules that the model does not have.
        DoesNotFit: no hardware whatever could do it.
    """
    shape = await once(session, (_shape, model.name), lambda: _shape(model))
    check_targets(spec, shape)
    learned = await once(session, "corrections", lambda: corrections.measured_corrections(session))
    wanted = PlanningQuery(
        spec=spec, dataset=with_held_out_rows(dataset, spec), shape=shape, corrections=learned.about(model)
    )
    if refusal := impossible(spec=wanted.spec, shape=wanted.shape, dataset=wanted.dataset):
        raise DoesNotFit(refusal.text, param=PlanRule(refusal.reasons[0].rule).param)
    return PlannableJob(model, wanted)


async def _shape(model: Model) -> ModelShape:
    return ModelShape.from_config(model.config)


async def usable_file(session: AsyncSession, file_id: str, param: str, *, project: str) -> File:
    """A file whose rows could be read.

    Raises:
        InvalidRequest: there is none, it is of another purpose, or its rows cannot be used; `param` is the field.
    """
    try:
        file = await files.find(session, file_id, project=project)
    except NotFound:
        message = f"The file {file_id!r:.140} does not exist."
        hint = "Upload it with purpose fine-tune, or name one that is there: GET /v1/files."
        raise InvalidRequest(message, code=ErrorCode.FILE_NOT_FOUND, param=param, hint=hint) from None
    if file.purpose != TRAINING_PURPOSE:
        message = f"The file {file_id} has purpose {file.purpose!r}; it must be {TRAINING_PURPOSE!r}."
        raise InvalidTrainingFile(message, code=ErrorCode.INVALID_FILE_PURPOSE, param=param)
    if file.status == "error":
        raise InvalidTrainingFile(f"The file {file_id} cannot be used. {file.status_details}", param=param)
    return file


async def _file(session: AsyncSession, file_id: str, param: str, *, project: str) -> File:
    question = (usable_file, file_id, param, project)
    return await once(session, question, lambda: usable_file(session, file_id, param, project=project))


def check_rows(file: File, param: str, *, objective: Objective) -> None:
    """Refuse a file whose rows are for something else.

    Raises:
        InvalidTrainingFile: with the kind of rows that is needed; `param` is the field.
    """
    report = report_of(file)
    if report.kind == objective:
        return
    needed = "preference pairs" if objective is Objective.DPO else "chat, prompt and completion, or text"
    raise InvalidTrainingFile(
        f"Line 1 of {file.id} is a {report.format} row, which method {objective.value!r} cannot train on: it "
        f"needs {needed}.",
        param=param,
        hint=f'Send "method": {{"type": "{report.kind}"}}, or a file of other rows.',
    )


def _facts(training: File, validation: File | None) -> DatasetFacts:
    return report_of(training).facts(validation_rows=report_of(validation).rows if validation else 0)


def shared_rows(training: File, validation: File) -> tuple[str, ...]:
    """A warning where rows that are to be held out are trained on too."""
    if training.blob_sha256 == validation.blob_sha256:
        return (f"The validation file has the same bytes as the training file. {_SAYS_NOTHING}",)
    found = overlap(report_of(validation).sample, other=report_of(training).sample)
    if not found.shared:
        return ()
    if found.is_exact:
        how_many = f"{found.shared:,} of {plural(found.compared, 'different validation row')}"
    else:
        how_many = (
            f"About {found.shared / found.compared:.0%} of the validation rows ({found.compared:,} were compared)"
        )
    return (f"{how_many} are also in the training file. {_SAYS_NOTHING}",)


def report_of(file: File) -> RowReport:
    """What the check at upload counted."""
    return RowReport.model_validate({key: value for key, value in (file.report or {}).items() if key != "kind"})
