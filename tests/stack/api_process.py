"""A process of the API that starts in a moment, for tests that kill it at one of its fault points."""

import multiprocessing
from multiprocessing.context import ForkServerProcess

import httpx2

from tests.control_plane import ControlPlane
from tests.ports import free_port
from tests.waiting import eventually
from tunesmith import faults
from tunesmith.service import logs
from tunesmith.service.routes import Routes
from tunesmith.service.serve import serve
from tunesmith.service.settings import Settings

# Its one process imports the service; those that it forks have no thread and no connection of the test's.
_STARTED = multiprocessing.get_context("forkserver")
_STARTED.set_forkserver_preload([__name__])


class ApiProcess:
    """At an address of its own, over the database and the store of `plane`."""

    def __init__(self, plane: ControlPlane) -> None:
        self._settings = plane.settings.model_copy(update={"redis_url": None})
        self._port = free_port()
        self._process: ForkServerProcess | None = None
        self.plane = ControlPlane(
            url=f"http://127.0.0.1:{self._port}", settings=plane.settings, app=None, keys=plane.keys
        )

    def start(self, *, with_faults: str = "") -> None:
        """Return when it answers."""
        self._process = _STARTED.Process(target=_serve, args=(self._settings, self._port, with_faults))
        self._process.start()
        eventually(self._answers, what="the API", pause_seconds=0.02)

    def wait_for_its_death(self) -> int:
        """The number of the signal that killed it."""
        assert self._process is not None
        self._process.join()
        return -(self._process.exitcode or 0)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self.plane.close()

    def _answers(self) -> bool:
        try:
            return self.plane.request("GET", "/healthz").is_success
        except httpx2.TransportError:
            return False


def _serve(settings: Settings, port: int, with_faults: str) -> None:
    logs.configure(log_format="console", level="error")
    with faults.armed(with_faults):
        serve(settings, host="127.0.0.1", port=port, routes=Routes.ALL, shares_port=False)
