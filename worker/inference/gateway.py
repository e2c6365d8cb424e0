"""What the service asks for answers: one route, open to whoever has the secret of this start."""

import secrets
from collections.abc import AsyncIterator

import structlog
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, TooLarge, TunesmithError, Unauthenticated, Unserved
from tunesmith.tuning.inference_messages import Generation
from tunesmith.worker.inference.answer import AnswerStream, Using, error_body

log = structlog.get_logger(__name__)

_LARGEST_BODY_BYTES = 8 * 1024**2


class Gateway:
    """An ASGI application over the engines of this host. Answers are counted, and no more than so many are open."""

    def __init__(self, using: Using, *, secret: str, most_requests: int) -> None:
        self._using, self._secret, self._most_requests = using, secret, most_requests
        self.open_requests = 0
        self.application = Starlette(
            routes=[
                Route("/generate", self._generate, methods=["POST"]),
                Route("/health", self._health, methods=["GET"]),
            ]
        )

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"open_requests": self.open_requests})

    async def _generate(self, request: Request) -> Response:
        try:
            self._authenticate(request)
            generation = await _read(request)
            self._refuse_one_too_many()
        except TunesmithError as refusal:
            headers = {"retry-after": "2"} if isinstance(refusal, Unserved) else {}
            return JSONResponse(error_body(refusal), status_code=refusal.http_status, headers=headers)
        return StreamingResponse(self._counted(generation), media_type="application/octet-stream")

    async def _counted(self, generation: Generation) -> AsyncIterator[bytes]:
        self.open_requests += 1
        frames = AnswerStream(generation, using=self._using).frames()
        try:
            async for frame in frames:
                yield frame
        finally:
            self.open_requests -= 1
            await frames.aclose()

    def _authenticate(self, request: Request) -> None:
        given = request.headers.get("authorization", "")
        if not secrets.compare_digest(given.encode(), f"Bearer {self._secret}".encode()):
            raise Unauthenticated("This gateway answers the service alone.", hint="Ask the service's /v1.")

    def _refuse_one_too_many(self) -> None:
        if self.open_requests >= self._most_requests:
            raise Unserved(
                f"{self.open_requests} requests are under way or wait at this inference worker already.",
                code=ErrorCode.INFERENCE_LINE_FULL,
            )


async def _read(request: Request) -> Generation:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _LARGEST_BODY_BYTES:
            raise TooLarge("The request is too large.")
    try:
        return Generation.model_validate_json(bytes(body), extra="ignore")
    except ValidationError as error:
        raise InvalidRequest(f"The request cannot be read: {error.error_count()} wrong values.") from None
