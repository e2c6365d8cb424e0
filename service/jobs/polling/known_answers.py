"""The quick answers to the question that is asked most: how is this job?"""

from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.routing import APIRoute

from tunesmith.service.jobs.polling.answers import JobAnswers
from tunesmith.service.jobs.polling.line import Line
from tunesmith.service.jobs.polling.watcher import JobWatcher, Sighting
from tunesmith.service.keys.cache import KeyCache, KnownKey
from tunesmith.service.web.auth import READERS, bearer
from tunesmith.service.web.etags import is_known
from tunesmith.tuning.state import JobState

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class KnownAnswerRoute(APIRoute):
    """Answers from what this process knows, before parameters are read. Whatever is not plain goes the usual way.

    It is plain when the key was looked up a moment ago, the job is the caller's, and nobody wants to wait. Then 304 is
    answered of a job that was looked up a moment ago as well and has the `etag` that the caller has; and what was sent
    of a job before, is sent again when a query says that the job is still at that version.
    """

    def get_route_handler(self) -> Handler:
        """The usual handler behind the quick ones."""
        usual = super().get_route_handler()
        if self.methods != {"GET"} or not self.path.endswith("/{job_id}"):
            return usual

        async def handle(request: Request) -> Response:
            key = _plain_reader(request)
            if key is None:
                return await usual(request)
            return _not_modified(request, key) or await _sent_before(request, key) or await usual(request)

        return handle


def _plain_reader(request: Request) -> KnownKey | None:
    if request.scope["query_string"]:
        return None
    keys: KeyCache = request.app.state.keys
    key = keys.known(bearer(request))
    if key is None or key.role not in READERS:
        return None
    structlog.contextvars.bind_contextvars(project=key.project)
    return key


def _not_modified(request: Request, key: KnownKey) -> Response | None:
    known_etag = request.headers.get("if-none-match")
    if known_etag is None:
        return None
    watcher: JobWatcher = request.app.state.watcher
    seen = watcher.known(request.path_params["job_id"])
    if seen is None or seen.project != key.project or seen.etag != known_etag:
        return None
    return _unchanged(seen)


async def _sent_before(request: Request, key: KnownKey) -> Response | None:
    """Requests that come together share the query, which costs a fraction of reading and writing the job."""
    job_id = request.path_params["job_id"]
    answers: JobAnswers = request.app.state.job_answers
    watcher: JobWatcher = request.app.state.watcher
    line: Line = request.app.state.line
    if (answer := answers.find(job_id)) is None:
        return None
    seen = await watcher.look_again(job_id)
    if seen is None or seen.project != key.project or seen.version != answer.version:
        return None
    if is_known(seen.etag, request.headers.get("if-none-match")):
        return _unchanged(seen)
    if seen.state == JobState.QUEUED and line.known_standing(job_id, seen) != answer.standing:
        return None
    return Response(answer.body, media_type="application/json", headers={"etag": seen.etag})


def _unchanged(seen: Sighting) -> Response:
    return Response(status_code=304, headers={"etag": seen.etag})
