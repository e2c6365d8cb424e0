"""The model hub as this service asks it: what a commit of a repository holds, and the bytes of its files."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

from tunesmith.service.settings import Settings
from tunesmith.tuning.errors import HubFailed
from tunesmith.tuning.models.hub import HubCommit
from tunesmith.tuning.values.json_objects import Json

_LONGEST_LISTING_BYTES = 8 * 1024**2
_MOST_REDIRECTS = 5
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class HubFile:
    """A file of a commit; large ones are promised by their hash."""

    name: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Listing:
    """A commit with its files."""

    hub: HubCommit
    files: tuple[HubFile, ...]


class Hub:
    """Asks the hub. What it redirects to is its own affair: weights are taken by the hash that it has promised."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def listing(self, identifier: str, *, revision: str) -> Listing:
        """The commit that the revision stands for now, with the files that it has.

        Raises:
            HubFailed: it cannot be reached, has no such thing, or does not give it to this service.
        """
        path = f"/api/models/{identifier}/revision/{quote(revision, safe='')}?blobs=true"
        async with self._asked(path, identifier, revision) as answer:
            text = b""
            async for chunk in answer.aiter_bytes():
                text += chunk
                if len(text) > _LONGEST_LISTING_BYTES:
                    raise HubFailed(f"The hub's list of the files of {identifier} is too long.", http_status=502)
        return _listing(identifier, text)

    async def stream(self, listing: Listing, file: HubFile) -> AsyncIterator[bytes]:
        """The bytes of one file of the commit; never more of them than were promised.

        Raises:
            HubFailed: they cannot be had, or they are not as many as were promised.
        """
        path = f"/{listing.hub.id}/resolve/{listing.hub.commit}/{quote(file.name)}"
        length_bytes = 0
        async with self._asked(path, listing.hub.id, listing.hub.commit) as answer:
            async for chunk in answer.aiter_bytes():
                length_bytes += len(chunk)
                if length_bytes > file.bytes:
                    break
                yield chunk
        if length_bytes != file.bytes:
            message = f"The hub sent {length_bytes:,} bytes of {file.name}, not the {file.bytes:,} that it promised."
            raise HubFailed(message, http_status=502, hint="Ask again: what has come is kept.")

    @asynccontextmanager
    async def _asked(self, path: str, identifier: str, revision: str) -> AsyncIterator[httpx2.Response]:
        try:
            async with self._client.stream("GET", path) as answer:
                if answer.status_code != httpx2.codes.OK:
                    raise _refused(answer, identifier, revision)
                yield answer
        except (httpx2.TransportError, httpx2.StreamError, httpx2.TooManyRedirects, httpx2.InvalidURL) as error:
            raise HubFailed(
                f"The hub cannot be reached: {str(error) or type(error).__name__}.",
                http_status=503,
                hint="Ask again, or register a folder of this model: tunesmith models add NAME --path FOLDER.",
            ) from error


@asynccontextmanager
async def hub_of(settings: Settings) -> AsyncIterator[Hub]:
    """The hub that the settings name."""
    token = settings.hub_token
    headers = {"authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    async with httpx2.AsyncClient(
        base_url=settings.hub_url.rstrip("/"),
        headers={"user-agent": "tunesmith", "accept-encoding": "identity", **headers},
        timeout=httpx2.Timeout(settings.hub_silence_seconds, connect=_CONNECT_SECONDS),
        follow_redirects=True,
        max_redirects=_MOST_REDIRECTS,
    ) as client:
        yield Hub(client)


def _listing(identifier: str, text: bytes) -> Listing:
    try:
        answer = json.loads(text)
        files = tuple(_file(entry) for entry in answer["siblings"])
        return Listing(HubCommit(id=identifier, commit=answer["sha"]), files)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"The hub's answer about {identifier} is not understood."
        raise HubFailed(message, http_status=502, hint="See whether TUNESMITH_HUB_URL is a model hub.") from error


def _file(entry: Json) -> HubFile:
    large: dict[str, Any] = entry.get("lfs") or {}
    size_bytes: Any = large.get("size") or entry.get("size") or 0
    return HubFile(str(entry["rfilename"]), int(size_bytes), large.get("sha256"))


def _refused(answer: httpx2.Response, identifier: str, revision: str) -> HubFailed:
    reason = answer.headers.get("x-error-code")
    if reason == "GatedRepo":
        hint = "Its operator accepts the model's terms and sets TUNESMITH_HUB_TOKEN."
        return HubFailed(f"{identifier} asks for consent first.", http_status=403, hint=hint)
    if reason == "RevisionNotFound":
        hint = "Name a branch, a tag or a commit that it has."
        return HubFailed(f"{identifier} has no revision {revision}.", http_status=404, hint=hint)
    if answer.status_code in (401, 403, 404):
        hint = "Check the name; for a private one the operator sets TUNESMITH_HUB_TOKEN."
        return HubFailed(f"The hub has no model {identifier}, or it is private.", http_status=404, hint=hint)
    return HubFailed(f"The hub answered {answer.status_code}.", http_status=503, hint="Ask again in a moment.")
