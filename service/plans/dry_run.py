"""The dry run of a job: everything that creating one checks, and what each class of worker would do. Makes nothing."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from tunesmith.service.aliases.resolve import resolve
from tunesmith.service.jobs.planning_request import PlannableJob, check_fits_model, read, spec_of
from tunesmith.service.models import store as models
from tunesmith.service.planning import fleet
from tunesmith.service.plans.schemas import PlanRequest
from tunesmith.service.queue import store as queue
from tunesmith.service.queue.outlook import outlook
from tunesmith.service.workers import store as workers
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.datasets.token_scale import TokenScale
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.values.units import GIB

_SEED = 0  # a job that names no seed gets a random one, and nothing else in a plan depends on it


@dataclass(frozen=True)
class Forecast:
    """What would happen to a job."""

    dataset: DatasetFacts
    answers: list[fleet.Answer]
    chosen: str | None
    warnings: tuple[str, ...]


async def forecast(
    session: AsyncSession, request: PlanRequest, *, project: str, scale: TokenScale | None, silence: timedelta
) -> Forecast:
    """Plan the job on every class of live worker, and on the machines that the request imagines.

    Raises:
        InvalidRequest: as creating the job would, or an imagined machine is unknown.
        DoesNotFit: no hardware whatever could do it.
    """
    request.check()
    ours = request.tunesmith
    machines = {name: _imagine(name, host_memory_gib=ours.host_memory_gib) for name in ours.on}
    asked = await _ask(session, request, project=project, scale=scale)
    live = await workers.find_live(session, silence=silence)
    turn = await queue.turn_of_new(session, project=project, priority=ours.priority)
    found, _ahead = await outlook(session, asked.wanted, turn=turn, project=project, live=live)
    found += await run_in_threadpool(
        lambda: [fleet.what_if(name, asked.wanted, machine=machines.__getitem__) for name in machines]
    )
    return Forecast(asked.wanted.dataset, found, fleet.chosen(found), asked.warnings)


async def _ask(session: AsyncSession, request: PlanRequest, *, project: str, scale: TokenScale | None) -> PlannableJob:
    if request.training_file is not None:
        return await read(
            session,
            request,
            training_file=request.training_file,
            project=project,
            seed=_SEED,
            scale=scale,
            to_train=False,
        )
    meant = await resolve(session, request.model, project=project)
    model = await models.find_plannable(session, meant, project=project)
    request = request.model_copy(update={"model": model.name})
    facts = request.facts(ModelShape.from_config(model.config))
    spec = await spec_of(session, request, model=model, seed=_SEED)
    return await check_fits_model(session, model, spec=spec, dataset=facts)


def _imagine(name: str, *, host_memory_gib: float | None) -> HardwareProfile:
    try:
        return what_if(name, host_memory_bytes=None if host_memory_gib is None else int(host_memory_gib * GIB))
    except InvalidRequest as error:
        hint = f" {error.hint}" if error.hint else ""
        raise InvalidRequest(
            f"{error.message}{hint}", code=ErrorCode(error.code), param="tunesmith.on", hint=error.hint
        ) from error
