"""`python -m benchmarks.serving.served`: the base alone through `transformers serve`, asked over HTTP.

It takes one model and no adapters, so what it is asked is less than what the others are. Each load has a limit of
time; what was not answered by then counts as nothing.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
from transformers import AutoTokenizer

from benchmarks.serving import workload

START_SECONDS, LOAD_SECONDS = 180.0, 240.0


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = str(Path(sys.executable).parent / "transformers")
    place = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    server = subprocess.Popen(
        [program, "serve", str(workload.model_folder()), *place, *sys.argv[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    ended = threading.Timer(START_SECONDS + 2 * LOAD_SECONDS, os.killpg, (server.pid, signal.SIGKILL))
    ended.start()
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=LOAD_SECONDS) as client:
            _wait(client)
            for load in workload.LOADS:
                _measure(client, load, process=server.pid)
    finally:
        ended.cancel()
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _measure(client: httpx2.Client, load: workload.Load, *, process: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(workload.model_folder(), local_files_only=True)
    prompts = [tokenizer.decode(prompt) for prompt in load.prompts()]
    _ask(client, prompts[0], tokens=2)
    began, cpu_began = time.perf_counter(), _cpu_seconds(process)
    with ThreadPoolExecutor(len(prompts)) as threads:
        written = list(threads.map(lambda prompt: _ask(client, prompt, tokens=load.new_tokens), prompts))
    seconds, cpu_seconds = time.perf_counter() - began, _cpu_seconds(process) - cpu_began
    alone, short = [], tokenizer.decode(workload.short_prompt())
    for _ in range(3):
        clock = time.perf_counter(), _cpu_seconds(process)
        _ask(client, short, tokens=1)
        alone.append((time.perf_counter() - clock[0], _cpu_seconds(process) - clock[1]))
    workload.tell(
        "served",
        0,
        load,
        answered=sum(map(bool, written)),
        tokens_per_second=sum(written) / seconds,
        tokens_per_cpu_second=sum(written) / cpu_seconds,
        idle_first_token_seconds=min(wall for wall, _ in alone),
        idle_first_token_cpu_seconds=min(cpu for _, cpu in alone),
    )


def _ask(client: httpx2.Client, prompt: str, *, tokens: int) -> int:
    """Tokens written; 0 where no answer came in time."""
    body = {"model": str(workload.model_folder()), "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    try:
        return int(client.post("/v1/completions", json=body).raise_for_status().json()["usage"]["completion_tokens"])
    except httpx2.HTTPError as error:
        print(f"transformers serve: {type(error).__name__}: {error}", file=sys.stderr)
        return 0


def _wait(client: httpx2.Client) -> None:
    ends_at = time.monotonic() + START_SECONDS
    while time.monotonic() < ends_at:
        try:
            client.get("/health").raise_for_status()
        except httpx2.HTTPError:
            time.sleep(0.5)
        else:
            return
    raise TimeoutError(f"transformers serve did not answer within {START_SECONDS:.0f} s")


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
