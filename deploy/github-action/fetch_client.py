"""Download the client of exactly the version that the service runs: fetch_client.py FOLDER prints the file to install.

TUNESMITH_URL and TUNESMITH_API_KEY say from where. Nothing but Python is needed.
"""

import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

_NO_KEY, _AWAY = 8, 9  # exit codes of the command itself


def main() -> None:
    """Write the wheel into the folder that is named."""
    address = os.environ["TUNESMITH_URL"].strip().rstrip("/").removesuffix("/v1") + "/v1/client"
    if not address.startswith(("https://", "http://")):
        _fail(f"TUNESMITH_URL is no address: {address}", _AWAY)
    key = os.environ["TUNESMITH_API_KEY"].strip()  # secrets often end with a line's end
    try:
        asked = urllib.request.Request(address, headers={"authorization": f"Bearer {key}"})  # noqa: S310 - checked above
        with urllib.request.build_opener(_Stay()).open(asked, timeout=60) as answer:
            name = Path(answer.headers.get_filename() or "").name
            content = answer.read()
    except urllib.error.HTTPError as error:
        _fail(f"{address} answered {error.code}.", _NO_KEY if error.code in (401, 403) else _AWAY)
    except (OSError, ValueError, http.client.HTTPException) as error:
        _fail(f"{address} cannot be reached: {error}", _AWAY)
    if not name.endswith(".whl"):
        _fail(f"{address} sent no wheel.", _AWAY)
    path = Path(sys.argv[1]) / name
    path.write_bytes(content)
    print(path)


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key is for this service alone."""

    def redirect_request(self, *_: object) -> None:
        """None: the redirect is the answer."""


def _fail(text: str, code: int) -> None:
    print(f"::error title=Tunesmith::{text} The client could not be installed.", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
