"""Sending stored bytes: whole, or the range that was asked for."""

import re
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import RedirectResponse, Response, StreamingResponse
from starlette.responses import Content
from starlette.types import Send

from tunesmith.service.blobs.objects import BlobStore

DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    307: {"description": "The store sends the bytes, under the address in `location`."},
    206: {"description": "The range of bytes that was asked for."},
    416: {"description": "The range lies outside; `content-range` says how many bytes there are."},
}
_RANGE = re.compile(r"([0-9]*)-([0-9]*)")
_MOST_DIGITS = 19  # of a place in a file: a number of thousands of them is more than Python reads


async def send_blob(
    blobs: BlobStore, sha256: str, *, length_bytes: int, range_header: str | None, filename: str | None = None
) -> Response:
    """Answer with the bytes of a blob, or with an address of the store's that has them.

    Nothing from the database is held while they flow.
    """
    headers = {"accept-ranges": "bytes", "etag": f'"{sha256}"', "x-content-type-options": "nosniff"}
    if filename is not None:
        safe = re.sub(r"[^A-Za-z0-9._-]|\.{2,}", "_", filename)[-128:].lstrip("._") or "file"
        headers["content-disposition"] = f'attachment; filename="{safe}"'
    wanted = _in_bytes(range_header)
    span = _span(wanted, length_bytes=length_bytes)
    if span is None:
        return Response(status_code=416, headers={"content-range": f"bytes */{length_bytes}"})
    if (url := await blobs.signed_url(sha256, length_bytes=length_bytes)) is not None:
        return RedirectResponse(url, status_code=307, headers={"cache-control": "no-store"})
    start, end = span
    headers["content-length"] = str(end - start)
    if wanted is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{length_bytes}"
    return _Blob(
        blobs.read(sha256, start=start, end=end),
        status_code=200 if wanted is None else 206,
        headers=headers,
        media_type="application/octet-stream",
    )


class _Blob(StreamingResponse):
    """Says 200 only when the first bytes are there: a store that fails before is an error like any other."""

    async def stream_response(self, send: Send) -> None:
        chunks = aiter(self.body_iterator)
        first = await anext(chunks, b"")
        self.body_iterator = _again(first, chunks)
        await super().stream_response(send)


async def _again(first: Content, rest: AsyncIterator[Content]) -> AsyncIterator[Content]:
    yield first
    async for chunk in rest:
        yield chunk


def _in_bytes(header: str | None) -> str | None:
    """The range that is asked for; None without one. As HTTP has it, one in a unit unknown here counts as none."""
    unit, _, wanted = (header or "").strip().partition("=")
    return wanted if unit.lower() == "bytes" else None


def _span(wanted: str | None, *, length_bytes: int) -> tuple[int, int] | None:
    """The half-open range of bytes; None when it lies outside. Several ranges at once are not offered."""
    if wanted is None:
        return 0, length_bytes
    match = _RANGE.fullmatch(wanted)
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, length_bytes - _place(last)), length_bytes
    else:
        start, end = _place(first), min(length_bytes, _place(last) + 1) if last else length_bytes
    return (start, end) if start < end else None


def _place(digits: str) -> int:
    return int(digits.lstrip("0")[:_MOST_DIGITS] or "0")
