"""`GET /`: what this is, for whoever opens its address in a browser."""

from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

router = APIRouter(include_in_schema=False)

PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    ),
    "referrer-policy": "no-referrer",
}


@router.head("/", include_in_schema=False)
@router.get("/")
async def front(request: Request) -> HTMLResponse:
    """The page, with the address that a client has to be given. It says nothing secret and needs no key."""
    page = _page(version=request.app.version, base_url=str(request.base_url).rstrip("/"))
    return HTMLResponse(page, headers=PAGE_HEADERS)


@lru_cache(maxsize=16)
def _page(*, version: str, base_url: str) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("front.html").render(version=version, base_url=base_url)
