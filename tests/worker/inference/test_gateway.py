"""A gateway answers for every model with the weights of that model, says why it waits, and what went wrong."""

import asyncio
import os
import shutil
import signal
import threading
from pathlib import Path

import httpx2
import pytest

from tests.machines import CPU
from tests.worker.inference.conftest import Host, authorization, until
from tests.worker.scripted_service import Request
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.values.units import GIB
from tunesmith.worker.inference.model_files import ModelFolders

FILES = "adapter_model.safetensors"
LOOKS = 2000  # some of which fall into the moment when a folder goes


def test_every_answer_is_given_by_the_adapter_that_was_asked_for(host: Host) -> None:
    async def story() -> None:
        base = host.base()
        adapters = [None, *(host.adapter(f"tuned-{number}") for number in range(6))]
        async with host.serving():
            asked = [adapters[number % len(adapters)] for number in range(40)]
            answers = await asyncio.gather(
                *(host.ask(base, adapter, stream=bool(n % 2)) for n, adapter in enumerate(asked))
            )
            for number, (adapter, answer) in enumerate(zip(asked, answers, strict=True)):
                if number % 2:
                    text = "".join(e["choices"][0]["delta"].get("content", "") for e in answer.events[:-1]).strip()
                    assert answer.events[-1] == "[DONE]"
                else:
                    text = answer.text
                assert text == host.said(base=base, adapter=adapter)
            assert len(host.engine_pids()) == 1

    asyncio.run(story())


def test_two_adapters_of_one_name_are_told_apart_by_their_bytes(host: Host) -> None:
    async def story() -> None:
        base = host.base()
        old, new = host.adapter("nightly", weights=b"monday"), host.adapter("nightly", weights=b"tuesday")
        async with host.serving():
            under_way = asyncio.create_task(host.ask(base, old, to="slowly 10", stream=True))
            assert (await host.ask(base, new)).text == host.said(base=base, adapter=new)
            assert under_way.done() is False
            told = "".join(e["choices"][0]["delta"].get("content", "") for e in (await under_way).events[:-1])
            assert told.startswith(host.said(base=base, adapter=old, to="slowly 10"))

    asyncio.run(story())


def test_who_has_no_secret_gets_nothing(host: Host) -> None:
    async def story() -> None:
        async with host.serving(), httpx2.AsyncClient(base_url=host.url) as client:
            for headers in ({}, {"authorization": "Bearer wrong"}):
                refused = await client.post("/generate", content=b"{}", headers=headers)
                assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            broken = await client.post("/generate", content=b"{}", headers=authorization())
            assert broken.status_code == 400

    asyncio.run(story())


def test_an_adapter_that_was_altered_on_disk_is_fetched_anew(host: Host) -> None:
    async def story() -> None:
        base, adapter = host.base(), host.adapter("tuned")
        file = host.root / "adapters" / adapter.digest / FILES
        async with host.serving():
            assert (await host.ask(base, adapter)).text == host.said(base=base, adapter=adapter)
            (pid,) = host.engine_pids()
            os.kill(pid, signal.SIGKILL)
            file.write_bytes(b"other")  # of the same length: only the hash can tell
            assert (await asked_until_served(host, base, adapter)) == host.said(base=base, adapter=adapter)
        assert file.read_bytes() == b"tuned"

    asyncio.run(story())


async def asked_until_served(host: Host, *model: object) -> str:
    """As a client that tries again."""
    answer = await host.ask(*model)  # type: ignore[arg-type]
    return await asked_until_served(host, *model) if answer.status == 503 else answer.text


def test_an_engine_that_died_a_moment_ago_is_buried_before_another_takes_its_place(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look() -> None:
        """Nothing, as between two looks."""

    async def story() -> None:
        base = host.base()
        async with host.serving():
            await host.ask(base)
            monkeypatch.setattr(host.engines, "_look", look)
            (dead,) = host.engines._running.values()
            os.kill(*host.engine_pids(), signal.SIGKILL)
            assert await asked_until_served(host, base) == host.said(base=base)
            assert dead._client.is_closed

    asyncio.run(story())


def test_an_adapter_that_the_engine_has_dropped_is_loaded_again(host: Host) -> None:
    async def story() -> None:
        base, adapter = host.base(), host.adapter("tuned")
        async with host.serving():
            await host.ask(base, adapter)
            assert "forgot" in (await host.ask(base, to="forget all adapters")).text
            for stream in (False, True):
                assert (await host.ask(base, adapter, stream=stream)).status == 200
                await host.ask(base, to="forget all adapters")

    asyncio.run(story())


def test_an_adapter_of_another_base_is_refused_by_name(host: Host) -> None:
    async def story() -> None:
        async with host.serving():
            refused = await host.ask(host.base(), host.adapter("foreign", made_for="another"))
            assert refused.status == 400
            assert refused.error["code"] == "adapter_of_another_base"
            assert "made for another" in refused.error["message"]

    asyncio.run(story())


def test_what_the_engine_refuses_is_passed_on(host: Host) -> None:
    async def story() -> None:
        async with host.serving():
            refused = await host.ask(host.base(), to="this is too long")
            assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded")

    asyncio.run(story())


def test_a_model_that_is_gone_from_the_store_is_not_found(host: Host) -> None:
    async def story() -> None:
        base, adapter = host.base(), host.adapter("deleted")
        host.contents = {digest: data for digest, data in host.contents.items() if data != b"deleted"}
        async with host.serving():
            refused = await host.ask(base, adapter)
            assert (refused.status, refused.error["code"]) == (404, "model_not_found")

    asyncio.run(story())


def test_who_waits_for_a_base_hears_what_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.worker.inference.answer.LONGEST_SILENCE_SECONDS", 0.02)

    async def story() -> None:
        async with host.serving():
            answer = await host.ask(host.base())
            assert "the base tiny is loaded" in answer.waited
            assert "the base tiny is loaded" in answer.head["waited_for"]
            again = await host.ask(host.base())
            assert again.head["waited_for"] is None

    asyncio.run(story())


def test_one_request_too_many_is_refused_with_a_reason(host: Host) -> None:
    async def story() -> None:
        base = host.base()
        async with host.serving(most_requests=3):
            under_way = [asyncio.create_task(host.ask(base, to="slowly 20", stream=True)) for _ in range(3)]
            await until(lambda: host.gateway.open_requests == 3)
            refused = await host.ask(base)
            assert (refused.status, refused.error["code"]) == (503, "inference_line_full")
            assert "3 requests" in refused.error["message"]
            for task in under_way:
                assert (await task).events[-1] == "[DONE]"
            assert (await host.ask(base)).status == 200

    asyncio.run(story())


def test_an_engine_that_ends_in_the_middle_ends_the_answer_clearly_and_a_retry_works(host: Host) -> None:
    async def story() -> None:
        base = host.base()
        async with host.serving():
            broken = await host.ask(base, to="crash", stream=True)
            assert broken.status == 200
            assert broken.events[-1]["error"]["code"] == "engine_lost"
            whole = await host.ask(base, to="crash")
            while whole.error["code"] != "engine_lost":
                whole = await host.ask(base, to="crash")
            assert whole.status == 503
            assert await asked_until_served(host, base) == host.said(base=base)

    asyncio.run(story())


def test_a_model_that_cannot_be_loaded_says_where_the_log_is(host: Host) -> None:
    async def story() -> None:
        async with host.serving():
            refused = await host.ask(host.base(unloadable=b"yes"))
            assert (refused.status, refused.error["code"]) == (503, "engine_failed")
            said.append(refused.error["message"])

    said: list[str] = []
    asyncio.run(story())
    assert "cannot be loaded" in Path(said[0].rpartition("see ")[2].rstrip(".")).read_text()


def test_an_answer_that_nobody_reads_any_more_is_given_up(host: Host) -> None:
    async def story() -> None:
        base = host.base()
        async with host.serving():
            task = asyncio.create_task(host.ask(base, to="slowly 500", stream=True))
            await until(lambda: bool(host.engines.bases()))
            task.cancel()
            await until(lambda: not host.gateway.open_requests)
            await host.engines.close()  # would wait for an answer that is under way

    asyncio.run(story())


def test_bases_are_ended_for_one_another_when_memory_is_short(host: Host) -> None:
    async def story() -> None:
        first, second = host.base("first"), host.base("second")
        host.hardware = small  # type: ignore[method-assign]
        async with host.serving():
            assert (await host.ask(first)).text == host.said(base=first)
            assert (await host.ask(second)).text == host.said(base=second)
            assert host.engines.bases() == (second.digest,)
            assert (await host.ask(first)).text == host.said(base=first)

    asyncio.run(story())


def small() -> HardwareProfile:
    """Room for one engine and not for two."""
    cpu = CPU.cpu.model_copy(update={"memory_free_bytes": int(0.7 * GIB)})
    return CPU.model_copy(update={"cpu": cpu})


def test_an_engine_that_nobody_asks_gives_its_memory_back(host: Host) -> None:
    async def story() -> None:
        base = host.base()
        async with host.serving(idle_seconds=0.2):
            await host.ask(base)
            await until(lambda: not host.engines.bases() and host.slots.use(0).is_free())
            assert (await host.ask(base)).status == 200

    asyncio.run(story())


def test_adapters_are_kept_on_disk_up_to_a_size(host: Host) -> None:
    async def story() -> None:
        base = host.base()
        adapters = [host.adapter(f"tuned-{number}", weights=bytes([number]) * 1000) for number in range(4)]
        async with host.serving(cache_bytes=2500):
            for adapter in adapters:
                await host.ask(base, adapter)
            await host.engines.drop_surplus_adapters()
            kept = {path.name for path in (host.root / "adapters").iterdir() if path.is_dir()}
            assert kept == {adapter.digest for adapter in adapters[2:]}
            assert (await host.ask(base, adapters[0])).text == host.said(base=base, adapter=adapters[0])

    asyncio.run(story())


def test_an_adapter_that_waits_for_its_base_is_no_surplus(host: Host) -> None:
    async def story() -> None:
        base = host.base()
        first, *later = (host.adapter(f"tuned-{number}", weights=bytes([number]) * 1000) for number in range(3))
        async with host.serving(cache_bytes=1500):
            async with host.engines._starting:  # as if another base were loaded meanwhile
                asked = asyncio.create_task(host.ask(base, first))
                await until(lambda: host.folders._used.keys() == {first.digest})
                for adapter in later:
                    await host.folders.adapter(adapter)
                assert first.digest not in await host.folders.surplus()
                await host.engines.drop_surplus_adapters()
                await host.folders.drop_adapter(first.digest)  # found before it was asked for
            assert (await asked).text == host.said(base=base, adapter=first)
            kept = {path.name for path in (host.root / "adapters").iterdir() if path.is_dir()}
            assert kept == {first.digest, later[1].digest}
            assert await host.folders.surplus() == [first.digest], "now that it is answered"

    asyncio.run(story())


def test_a_disk_that_could_not_be_tidied_is_tidied_the_next_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    tidied = asyncio.Event()
    surprises = [RuntimeError("no thread"), FileNotFoundError("a file that went away meanwhile")]

    async def drop() -> None:
        if surprises:
            raise surprises.pop()
        tidied.set()

    async def story() -> None:
        async with host.serving():
            monkeypatch.setattr(host.engines, "drop_surplus_adapters", drop)
            tidying = asyncio.create_task(host.engines.tidy(every_seconds=0.01))
            await until(lambda: tidied.is_set() or tidying.done())
            assert tidied.is_set()
        await tidying

    asyncio.run(story())


def test_an_adapter_that_is_fetched_anew_does_not_end_the_looking_after_the_others(tmp_path: Path) -> None:
    folders = ModelFolders(None, bases=tmp_path, adapters=tmp_path, adapter_bytes=0)  # type: ignore[arg-type]
    (tmp_path / "a").mkdir()

    def fetch_anew() -> None:
        folder = tmp_path / "b"
        while not over.is_set():
            folder.mkdir()
            for number in range(20):
                (folder / str(number)).touch()
            shutil.rmtree(folder)

    async def look() -> set[str]:
        return {digest for _ in range(LOOKS) for digest in await folders.surplus()}

    over, fetching = threading.Event(), threading.Thread(target=fetch_anew)
    fetching.start()
    try:
        assert asyncio.run(look()) <= {"a", "b"}
    finally:
        over.set()
        fetching.join()


def test_files_come_by_the_routes_of_models_alone(host: Host) -> None:
    async def story() -> None:
        async with host.serving():
            await host.ask(host.base(), host.adapter("tuned"))

    asyncio.run(story())
    paths: list[Request] = host.service.requests
    assert len(paths) == 4
    assert all(request.path.startswith("/internal/inference-workers/inference-1/blobs/") for request in paths)
