"""Which sandbox a machine allows is found out by trying, and said; what runs for the service itself gets no secret."""

import asyncio
import json
import sys

import pytest

from tests.security.conftest import Site
from tunesmith.local.doctor import Level, _sandbox
from tunesmith.service.tokens.measure import _output_of
from tunesmith.worker.sandbox.choice import best


def test_where_namespaces_are_forbidden_landlock_takes_their_place(site: Site) -> None:
    """Behind either sandbox no further namespaces can be had, as in most containers."""
    tries = "from tunesmith.worker.sandbox.choice import best; print(best().kind, sorted(best().missed))"
    assert site.run(tries) == "landlock ['namespaces']\n"


def test_the_doctor_says_which_sandbox_is_on() -> None:
    found = best()
    finding = _sandbox({})
    assert (finding.level is Level.OK) == (found.kind is not None)
    assert (found.kind or "not sandboxed") in finding.text
    assert ("with a filter of system calls" in finding.text) == found.filters_calls
    assert _sandbox({"TUNESMITH_SANDBOX": "off"}).level is Level.WARN


def test_the_counting_of_tokens_gets_no_secret_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "AWS_SECRET_ACCESS_KEY", "TUNESMITH_WORKER_KEY"):
        monkeypatch.setenv(name, "secret")
    said = asyncio.run(_output_of(sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"))
    seen = json.loads(said)
    assert "PATH" in seen
    assert "secret" not in seen.values()
