"""Which job a person means: by its id, a part of it, the name it was given, or the model it made."""

import re
from collections.abc import Iterator
from contextlib import suppress

from tunesmith.cli import output
from tunesmith.cli.client import Client
from tunesmith.tuning.api.jobs import JobObject
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound, TunesmithError

_PREFIX, _EVALUATION_PREFIX = "ftjob-", "eval-"
_MODEL_PREFIX = "ft:"
_WHOLE_ID = re.compile(rf"({_PREFIX}|{_EVALUATION_PREFIX})[0-9a-f]{{32}}")
_LEAST_CHARACTERS = 4  # of a part of an id
_MOST_SEARCHED = 1000
_COMPLETED = 30


def find_job_id(client: Client, given: str) -> str:
    """The id of the one job that `given` means, among the newest thousand; of several of one name, the newest.

    A fine-tuned model, or an alias for one, means the job that made it. An evaluation is named by its whole id.

    Raises:
        NotFound: no job is meant.
        InvalidRequest: a part of an id that several have.
    """
    if _WHOLE_ID.fullmatch(given):
        return given
    if given.startswith(_MODEL_PREFIX):
        return _maker(client, given)
    jobs = list(_newest(client, limit=_MOST_SEARCHED))
    by_part = [job for job in jobs if _is_part(given, of=job.id)]
    if len(by_part) == 1:
        return by_part[0].id
    if by_part:
        first = ", ".join(job.id for job in by_part[:3])
        raise InvalidRequest(
            f"{given!r} is a part of {len(by_part)} ids: {first}{', ...' if len(by_part) > 3 else '.'}",
            param="JOB",
            hint="give more of it",
        )
    named = [job for job in jobs if (job.metadata or {}).get("name") == given]
    if not named:
        raise NotFound(
            f"No job of the newest {len(jobs):,} is called {given!r:.140}.",
            code=ErrorCode.FINE_TUNING_JOB_NOT_FOUND,
            param="JOB",
            hint="`tunesmith ls` lists them",
        )
    if len(named) > 1:
        output.note(f"{named[0].id} is the newest of {len(named)} jobs called {given}")
    return named[0].id


def is_evaluation(job_id: str) -> bool:
    """Whether the job of this id measures models and trains nothing."""
    return job_id.startswith(_EVALUATION_PREFIX)


def complete_job(incomplete: str) -> list[tuple[str, str]]:
    """Ids and names of recent jobs that begin so, each with what it is, for a shell. Nothing when nobody answers."""
    found: list[tuple[str, str]] = []
    with suppress(TunesmithError), Client() as client:
        for job in _newest(client, limit=_COMPLETED):
            name = (job.metadata or {}).get("name")
            words = [job.id, *([name] if name else [])]
            found += [(word, f"{job.status}, {job.model}") for word in words if word.startswith(incomplete)]
    return found


def _maker(client: Client, name: str) -> str:
    model = client.model(name)
    if model.tunesmith.job_id is None:
        raise NotFound(f"No job made {model.id}: it was registered.", param="JOB")
    return model.tunesmith.job_id


def _is_part(given: str, *, of: str) -> bool:
    digits = of.removeprefix(_PREFIX)
    part = given.removeprefix(_PREFIX)
    return len(part) >= _LEAST_CHARACTERS and (digits.startswith(part) or of.endswith(given))


def _newest(client: Client, *, limit: int) -> Iterator[JobObject]:
    after: str | None = None
    left = limit
    while left:
        page = client.list_jobs(limit=min(left, 100), after=after)
        yield from page.data
        left -= len(page.data)
        if not page.has_more or not page.data:
            return
        after = page.data[-1].id
