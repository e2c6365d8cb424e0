"""The service behind proxies that break the network to its database or to its bucket."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.chaos.proxy import Faults, Proxy
from tests.control_plane import ControlPlane
from tests.service.limits.application import serving
from tests.waiting import eventually
from tunesmith.service.announcer import announcer_for
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.transactions import Database, create_engine
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.service.keeper.chores import every_chore
from tunesmith.service.keeper.loop import Keeper
from tunesmith.service.settings import Settings

STATEMENT_SECONDS = 2.0
ANSWER_SECONDS = 30.0  # in which every request has an answer, whatever the network does
LEASE_SECONDS = 6.0


@dataclass
class Site:
    """A service whose database is behind `network`; its own plane asks the database past it."""

    plane: ControlPlane
    network: Proxy

    def heal(self) -> None:
        """From now on everything passes. What was swallowed stays lost, and its connections stay open."""
        self.network.faults = Faults()


@pytest.fixture
def site(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Site]:
    """An API and a keeper, with short leases, that reach their database over a proxy."""
    with Proxy(_socket_of(control_plane.settings.database_url)) as network:
        settings = control_plane.settings.model_copy(
            update={
                "database_url": _through(network, control_plane.settings.database_url),
                "pool_size": 8,
                "pool_wait_seconds": 2.0,
                "statement_seconds": STATEMENT_SECONDS,
                "lease_seconds": LEASE_SECONDS,
                "heartbeat_seconds": 0.5,
                "api_beat_seconds": 0.25,
                "keeper_seconds": 0.5,
                "keeper_alive_file": tmp_path / "keeper-lives",
            }
        )
        with serving(settings) as url, keeping(settings), control_plane.served_at(url) as plane:
            yield Site(plane, network)


@pytest.fixture
def keeper_lives(tmp_path: Path) -> Callable[[], None]:
    """Returns when the keeper has come through another sweep."""
    file = tmp_path / "keeper-lives"

    def wait() -> None:
        file.unlink(missing_ok=True)
        eventually(file.exists, seconds=10, what="a sweep of the keeper")

    return wait


@contextmanager
def keeping(settings: Settings) -> Iterator[None]:
    """A keeper in a thread."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def keep() -> None:
        engine = create_engine(settings.database_url, pool_size=4, pool_wait_seconds=2, statement_seconds=2)
        database = Database(engine)
        blobs = BlobStore.from_url(settings.store)
        context = KeeperContext(settings, database, announcer_for(settings.redis_url), blobs)
        await Keeper(context, every_chore(settings)).run(stop)
        await database.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(keep(),), daemon=True)
    thread.start()
    yield
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()


def _socket_of(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0]) / ".s.PGSQL.5432"


def _through(network: Proxy, url: str) -> str:
    parts = urlsplit(url)
    asked = parse_qs(parts.query)
    return f"postgresql://{asked['user'][0]}:{asked['password'][0]}@127.0.0.1:{network.port}{parts.path}"
