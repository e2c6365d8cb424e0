"""An installation is upgraded as docs/operating.md says, from the version before, while it is used and trains."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.chaos.proxy import Proxy
from tests.chaos.quick_installation import SHORT_INTERVALS
from tests.e2e.test_survival import has_metrics
from tests.ports import free_port
from tests.simulation.auditor import Auditor
from tests.simulation.users import Promises
from tests.stack.installation import MODEL, chat_rows
from tests.stack.services import SERVICE_PROGRAM, Services
from tests.upgrade.earlier_version import EarlierVersion, earlier_version
from tests.upgrade.users import SteadyUsers
from tests.waiting import eventually
from tunesmith.service.database import migrate
from tunesmith.tuning.values.json_objects import Json

REQUESTS = 100  # in each stage, at least
NO_EFFECT_LOST = {"succeeded", "preempted"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class TwoVersions(Services):
    """Services of then and of now over one database. Workers speak to one address, which leads to either."""

    def __init__(self, root: Path, *, database_url: str, redis_url: str, earlier: EarlierVersion) -> None:
        super().__init__(root, database_url=database_url, redis_url=redis_url)
        self._environment |= SHORT_INTERVALS
        self._earlier = earlier
        self.old_url = self.url
        self.new_url = f"http://127.0.0.1:{free_port()}"
        self._old: list[subprocess.Popen[bytes]] = []
        self.for_workers = Proxy(_port(self.old_url))

    def start_old(self) -> None:
        self._old = [
            self._spawn("keeper", **self._earlier.environment),
            self._spawn("serve", "--port", str(_port(self.old_url)), **self._earlier.environment),
        ]
        eventually(self._is_ready, what=lambda: f"the old API\n{self.logs()}")

    def start_new(self) -> None:
        self.url = self.new_url
        self.start()

    def end_old(self) -> None:
        """SIGTERM to the services of the version before."""
        for process in self._old:
            process.terminate()
        for process in self._old:
            process.wait(30)

    def wait_for_a_beat(self, job_id: str) -> None:
        """Until the lease of its first attempt, which still runs, has been extended once more."""
        query = "SELECT lease_expires_at FROM attempts WHERE job_id = %s AND epoch = 1 AND ended_at IS NULL"
        before = self.query(query, job_id)
        eventually(
            lambda: self.query(query, job_id) > before, seconds=30, what=lambda: f"a beat of {job_id}\n{self.logs()}"
        )

    def migrate(self, **settings: str) -> None:
        environment = self._environment | settings
        subprocess.run([SERVICE_PROGRAM, "migrate"], env=environment, check=True, timeout=120)

    def schema(self) -> str:
        return str(self.query("SELECT version_num FROM alembic_version")[0][0])


@pytest.fixture
def installation(
    tmp_path_factory: pytest.TempPathFactory, empty_database_url: str, redis_url: str
) -> Iterator[TwoVersions]:
    """The version before, in use: migrated, with a model."""
    earlier = earlier_version(tmp_path_factory.mktemp("earlier"))
    migrate_with = {**os.environ, **earlier.environment, "DATABASE_URL": empty_database_url}
    subprocess.run([SERVICE_PROGRAM, "migrate"], env=migrate_with, check=True, timeout=120)
    root = tmp_path_factory.mktemp("upgrade")
    running = TwoVersions(root, database_url=empty_database_url, redis_url=redis_url, earlier=earlier)
    try:
        with running.for_workers:
            running.start_old()
            running.register_model()
            assert running.schema() == earlier.newest_migration()
            yield running
    finally:
        running.stop()


def test_an_upgrade_fails_no_request_and_no_running_job_starts_again(installation: TwoVersions) -> None:
    worker_url = f"http://127.0.0.1:{installation.for_workers.port}"
    earlier = installation._earlier.environment
    old_worker = installation.start_worker(TUNESMITH_URL=worker_url, **earlier)
    long_job = installation.submit(epochs=3)
    old_worker.freeze_trainer(long_job, when=has_metrics)  # runs through the whole upgrade

    with using(installation) as users:
        users.ask_more(REQUESTS)

        installation.migrate()
        assert installation.schema() == migrate.head()
        users.ask_more(REQUESTS)

        installation.start_new()
        users.turn_to(installation.old_url, installation.new_url)
        users.ask_more(REQUESTS)

        installation.for_workers.lead_to(_port(installation.new_url))
        users.turn_to(installation.new_url)
        installation.end_old()
        installation.wait_for_a_beat(long_job)
        users.ask_more(REQUESTS)  # answered by the new services, trained by the old worker

        installation.start_worker(TUNESMITH_URL=worker_url)
        old_worker.process.terminate()
        old_worker.thaw_trainer()
        assert old_worker.process.wait(60) == 0
        users.ask_more(REQUESTS)
        users.is_content = True
        installation.wait_for_status(long_job, "succeeded")
        eventually(lambda: users.ended == len(users.accepted), what="the last job")

    assert users.faults == []
    assert min(users.answers[url] for url in (installation.old_url, installation.new_url)) > REQUESTS
    audit(installation, long_job, users)


@contextmanager
def using(installation: TwoVersions) -> Iterator[SteadyUsers]:
    """Users of the old API, whose jobs are all over in a moment."""
    with installation.openai() as client:
        file = client.files.create(file=("rows.jsonl", chat_rows(16)), purpose="fine-tune")
    body: Json = {
        "model": MODEL,
        "training_file": file.id,
        "seed": 11,
        "hyperparameters": {"n_epochs": 1, "batch_size": 4},
        "tunesmith": {"method": "lora", "lora": {"rank": 4}},
    }
    users = SteadyUsers([installation.old_url], key=installation.user_key, body=body, open_jobs=2)
    with users:
        yield users


def audit(installation: TwoVersions, long_job: str, users: SteadyUsers) -> None:
    promises = Promises()
    promises.accepted |= {long_job, *users.accepted.values()}
    promises.by_key |= {key: {job_id} for key, job_id in users.accepted.items()}
    with psycopg.connect(installation.database_url) as connection:
        auditor = Auditor(connection)
        auditor.look()
        auditor.audit(promises)
        assert auditor.unfinished() == {}
    outcomes = dict(installation.query("SELECT outcome, count(*) FROM attempts GROUP BY outcome"))
    assert outcomes.keys() <= NO_EFFECT_LOST, outcomes
    assert [attempt["outcome"] for attempt in installation.attempts(long_job)] == ["preempted", "succeeded"]
    assert installation.first_steps(long_job)[2] > 1


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
