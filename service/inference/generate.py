"""Asking a model: what its name means, which inference workers can answer, and the first of them that does."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from tunesmith.service.database.inference_tables import InferenceWorker
from tunesmith.service.database.transactions import Database
from tunesmith.service.inference import store
from tunesmith.service.inference.answers import refused
from tunesmith.service.inference.gateways import Begun, Gateways, Tell
from tunesmith.service.inference.served import served
from tunesmith.tuning.errors import TunesmithError, Unserved
from tunesmith.tuning.inference_messages import Generation, GenerationPath, ServedModel
from tunesmith.tuning.values.json_objects import Json

_MOST_ASKED = 3  # workers, for one request
_RANK = {"serving": 0, "ready": 1, "training": 2}
_NONE_RETRY_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request of a client."""

    model: str
    project: str
    path: GenerationPath
    body: Json


async def ask(
    database: Database, gateways: Gateways, question: Question, *, silence: timedelta, tell: Tell = lambda _: None
) -> Begun:
    """The beginning of an answer. Nothing of the database is held while it is awaited; `tell` hears what for.

    Raises:
        NotFound: there is no such model for this project.
        InvalidRequest: it has no weights that could answer.
        Unserved: nobody can answer now; the message of the last who was asked says why.
    """
    async with database.transaction() as session:
        model = await served(session, question.model, project=question.project)
        live = await store.find_live(session, silence=silence)
    generation = Generation(model=model, path=question.path, body=question.body)
    refusal: TunesmithError = _nobody(model, live)
    for worker in candidates(live, model)[:_MOST_ASKED]:
        try:
            begun = await gateways.ask(worker, generation, tell=tell)
        except Unserved as unserved:
            refusal = unserved
            continue
        if begun.head.status != 503:
            return begun
        refusal = await refused(begun)
    raise refusal


def candidates(live: Sequence[InferenceWorker], model: ServedModel) -> list[InferenceWorker]:
    """Those that can have the model: first who has its base in memory, then who serves, then who has least to do."""
    digest = model.base.digest
    able = [worker for worker in live if worker.doing in _RANK and _can(worker, model)]
    return sorted(
        able,
        key=lambda worker: (
            worker.doing == "training",
            digest not in worker.bases,
            _RANK[worker.doing],
            worker.requests,
        ),
    )


def _can(worker: InferenceWorker, model: ServedModel) -> bool:
    if worker.names is not None:
        return model.name in worker.names or (
            model.adapter is not None and f"adapter-{model.adapter.digest}" in worker.names
        )
    return sum(file.bytes for file in model.base.files) < worker.memory_bytes


def _nobody(model: ServedModel, live: Sequence[InferenceWorker]) -> Unserved:
    if not live:
        message = f"No inference worker is connected that could answer for {model.name!r}."
        hint = "Start one where the weights fit: tunesmith-worker serve."
    else:
        message = f"None of {len(live)} inference workers can hold {model.name!r}."
        hint = "Start one with more memory, or let the engine elsewhere serve the model under this name."
    return Unserved(message, hint=hint, retry_after_seconds=_NONE_RETRY_SECONDS)
