"""`tunesmith-service serve`: one process of the API, alone at its address or one of several."""

import contextlib
import gc
import resource
import signal
import socket
import sys
from types import FrameType
from typing import NoReturn

import uvicorn

from tunesmith.service.app import create_app, let_go
from tunesmith.service.files.spool import spooling_in
from tunesmith.service.routes import Routes
from tunesmith.service.settings import Settings
from tunesmith.service.web.connections.impatient import ImpatientConnection
from tunesmith.service.web.connections.server import Server

_GRACE_SECONDS = 10
_DESCRIPTORS = 65_536  # a connection is one; the usual soft limit of 1,024 is less than a dashboard's readers


def serve(settings: Settings, *, host: str, port: int, routes: Routes, shares_port: bool) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish those that are under way."""
    _allow_descriptors()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # uvicorn raises them once more when it has finished
    with spooling_in(settings.spool_dir), contextlib.ExitStack() as stack:
        api = create_app(settings, routes=routes)
        config = uvicorn.Config(
            api,
            host=host,
            port=port,
            http=ImpatientConnection,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=settings.max_connections,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        _settle()
        server = Server(config, on_shutdown=lambda: let_go(api))
        sockets = [stack.enter_context(shared_socket(host, port))] if shares_port else None
        server.run(sockets=sockets)
        if not server.started:
            sys.exit(1)


def shared_socket(host: str, port: int) -> socket.socket:
    """Bound so that other processes of the same user may bind it too: the kernel shares connections out among them."""
    family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    return listener


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)  # whoever manages services takes another status for a failure


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _settle() -> None:
    """Spare the collector what stays for ever: a full collection took 170 ms, in which nothing is answered."""
    gc.collect()
    gc.freeze()
