"""The first words between a machine and a service: is it a Tunesmith, is the key right, may this machine join."""

from importlib.metadata import version
from typing import Any

import httpx2
from packaging.version import InvalidVersion, Version

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.messages import Greeting, GreetingAnswer, JoinAnswer, JoinRequest
from tunesmith.worker.transport.retry import Unavailable
from tunesmith.worker.transport.wire import raise_for, read_answer


class NotTunesmith(TunesmithError):
    """What answers at the address is something else."""

    code = ErrorCode.NOT_A_TUNESMITH


def greet(client: httpx2.Client) -> GreetingAnswer:
    """Say hello with a worker's key.

    Raises:
        Unavailable: nothing answers now.
        NotTunesmith: something else answers.
        TunesmithError: the key is wrong, or this is the address for people.
    """
    greeting = Greeting(version=version("tunesmith"))
    return read_answer(GreetingAnswer, _post(client, "/internal/greetings", greeting.model_dump_json()))


def require_not_older(answer: GreetingAnswer) -> GreetingAnswer:
    """The same answer. A service refuses fields that it does not know, which a newer worker may send.

    Raises:
        Unavailable: the service is older than this worker, until it is upgraded.
    """
    ours = version("tunesmith")
    if _is_older(answer.version, than=ours):
        raise Unavailable(
            f"The service is version {answer.version}, older than this worker, which is {ours}. Upgrade the service "
            f"first, or install tunesmith=={answer.version} here. The worker waits and takes no job until then."
        )
    return answer


def join(client: httpx2.Client, request: JoinRequest) -> JoinAnswer:
    """Make the key of the request a worker's, with a join token.

    Raises:
        Unavailable: nothing answers now.
        NotTunesmith: something else answers.
        TunesmithError: the token is unknown, used or expired, or the versions differ.
    """
    return read_answer(JoinAnswer, _post(client, "/internal/join", request.model_dump_json()))


def _post(client: httpx2.Client, path: str, body: str) -> bytes:
    try:
        response = client.post(path, content=body, headers={"content-type": "application/json"})
    except httpx2.TransportError as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error
    if response.status_code < 500 and not _is_ours(response):
        raise NotTunesmith(
            f"What answers at {client.base_url} ({response.status_code}) is no Tunesmith service.",
            param="TUNESMITH_URL",
            hint="Workers often have a port of their own: take the address that `tunesmith workers invite` prints.",
        )
    raise_for(response)
    return response.content


def _is_older(theirs: str, *, than: str) -> bool:
    try:
        return Version(theirs) < Version(than)
    except InvalidVersion:  # a build that somebody named otherwise: who is older cannot be said
        return False


def _is_ours(response: httpx2.Response) -> bool:
    try:
        body: Any = response.json()
    except ValueError:
        return False
    expected = {"version"} if response.is_success else {"error"}
    return isinstance(body, dict) and expected <= body.keys() and "x-request-id" in response.headers
