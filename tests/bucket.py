"""A bucket on a server of its own that speaks S3: a process, so that it can be ended like any other."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2

from tests.ports import free_port
from tests.waiting import eventually

NAME = "weights"


@dataclass
class Bucket:
    """Its server and how to reach it."""

    endpoint: str
    process: "subprocess.Popen[bytes]"

    @property
    def environment(self) -> dict[str, str]:
        """What a service is told beside `TUNESMITH_STORE`."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "a-key",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def unfinished_uploads(self) -> int:
        """Multipart uploads that were begun and neither completed nor aborted."""
        return httpx2.get(f"{self.endpoint}/{NAME}?uploads").text.count("<UploadId>")

    def stop(self) -> None:
        """It answers nobody from now on."""
        self.process.kill()
        self.process.wait()


@contextmanager
def bucket() -> Iterator[Bucket]:
    """Empty, and gone with its server at the end."""
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    made = Bucket(f"http://127.0.0.1:{port}", process)
    try:
        eventually(lambda: _is_made(made), what="a bucket")
        yield made
    finally:
        made.stop()


def _is_made(made: Bucket) -> bool:
    try:
        return httpx2.put(f"{made.endpoint}/{NAME}").status_code == 200
    except httpx2.TransportError:
        return False
