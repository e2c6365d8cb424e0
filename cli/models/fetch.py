"""Has the service fetch a model from the hub, and shows how far it is."""

from itertools import chain

from tunesmith.cli import output
from tunesmith.cli.client import Client, ServiceError
from tunesmith.cli.progress import transfer
from tunesmith.tuning.api.jobs import JobObject
from tunesmith.tuning.api.models import ModelObject
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.models.hub import is_repository
from tunesmith.tuning.values.json_objects import Json, present


def fetch(client: Client, name: str) -> ModelObject:
    """The model, fetched if the service has not got it: `OWNER/NAME` or `OWNER/NAME@REVISION`.

    Raises:
        ServiceError: the service may not fetch it, or the hub does not give it; the hint says what to do.
    """
    identifier, _, revision = name.partition("@")
    with client.fetch_model(present(id=identifier, revision=revision or None)) as steps:
        first = next(steps)
        if isinstance(first, ModelObject):
            return first
        seen_bytes = 0
        with transfer(f"fetch {identifier} from the hub", total_bytes=first.total_bytes) as advance:
            for step in chain((first,), steps):
                if isinstance(step, ModelObject):
                    return step
                advance(step.fetched_bytes - seen_bytes)
                seen_bytes = step.fetched_bytes
    raise AssertionError("the last step is the model")


def create_job(client: Client, body: Json, *, idempotency_key: str) -> JobObject:
    """Create a job; a base that is written like a repository of the hub is fetched first if the service lacks it."""
    try:
        return client.create_job(body, idempotency_key=idempotency_key)
    except ServiceError as error:
        if error.code != ErrorCode.MODEL_NOT_FOUND or not is_repository(body["model"]):
            raise
        output.note(f"note: {error.message}")
    model = fetch(client, body["model"])
    output.note(f"{model.id} is registered from the hub, commit {(model.tunesmith.hub or {}).get('commit')}")
    return client.create_job(body, idempotency_key=idempotency_key)
