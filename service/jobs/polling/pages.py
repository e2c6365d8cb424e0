"""Pages of jobs, made of what was sent of each of them before."""

from collections.abc import Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from tunesmith.service.jobs import store, views
from tunesmith.service.jobs.polling.answers import JobAnswer, JobAnswers
from tunesmith.service.queue.surroundings import Standing
from tunesmith.tuning.api.jobs import JobPage


async def page_of(
    newest: Sequence[store.NewestRow],
    *,
    limit: int,
    standings: Mapping[str, Standing],
    answers: JobAnswers,
    connection: AsyncConnection,
) -> bytes:
    """A `JobPage` as JSON. Only those jobs are read that have changed, or whose standing has, since they were sent.

    `newest`: up to `limit + 1` jobs; the extra one only says that there is more.
    """
    ids = [job.id for job in newest[:limit]]
    known = {
        job.id: answers.find_at(job.id, version=job.version, standing=standings.get(job.id)) for job in newest[:limit]
    }
    unknown = [job_id for job_id in ids if known[job_id] is None]
    for row in await store.find_rows(connection, unknown) if unknown else ():
        known[row.id] = answers.keep(row.id, answer_to(row, standing=standings.get(row.id)))
    bodies = [answer.body for answer in known.values() if answer is not None]
    empty = JobPage(
        data=[], has_more=len(newest) > limit, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None
    )
    return empty.model_dump_json().encode().replace(b'"data":[]', b'"data":[' + b",".join(bodies) + b"]", 1)


def answer_to(job: store.JobRow, *, standing: Standing | None) -> JobAnswer:
    """What is sent to whoever asks for this job."""
    return JobAnswer(job.version, standing, views.job_object(job, standing=standing).model_dump_json().encode())
