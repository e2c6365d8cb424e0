"""The quick answer to the question that is asked most: has this job changed?"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from tunesmith.service.jobs.watcher import JobWatcher
from tunesmith.service.keys.cache import KeyCache
from tunesmith.service.web.auth import READERS, bearer

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class NotModifiedRoute(APIRoute):
    """Answers 304 from what this process knows, before parameters are read. Whatever is not plain goes the usual way.

    It is plain when key and job were both looked up a moment ago, the job is the caller's and has the `etag` that the
    caller has, and nobody wants to wait.
    """

    def get_route_handler(self) -> Handler:
        """The usual handler behind the quick one."""
        usual = super().get_route_handler()
        if self.methods != {"GET"} or not self.path.endswith("/{job_id}"):
            return usual

        async def handle(request: Request) -> Response:
            return _not_modified(request) or await usual(request)

        return handle


def _not_modified(request: Request) -> Response | None:
    known_etag = request.headers.get("if-none-match")
    if known_etag is None or request.scope["query_string"]:
        return None
    keys: KeyCache = request.app.state.keys
    watcher: JobWatcher = request.app.state.watcher
    key = keys.known(bearer(request))
    seen = watcher.known(request.path_params["job_id"])
    if key is None or seen is None or key.role not in READERS or key.project != seen.project:
        return None
    return Response(status_code=304, headers={"etag": known_etag}) if seen.etag == known_etag else None
