"""An inference worker shows that it lives for as long as it does, whatever goes wrong in between."""

import asyncio

from tests.worker.inference.conftest import until
from tests.worker.scripted_service import Reply, ScriptedService
from tunesmith.tuning.inference_messages import InferenceHeartbeat, RegisterInferenceWorker
from tunesmith.worker.inference.presence import Presence
from tunesmith.worker.transport.inference_control import HttpInferenceControl

START = RegisterInferenceWorker(
    worker_id="inference-1",
    incarnation="first",
    hostname="host",
    version="1",
    worker_class="cpu-2-cores-16gib",
    engine="own",
    url="http://127.0.0.1:1",
    secret="secret",
    memory_bytes=0,
)


def test_an_error_that_nobody_foresaw_does_not_end_the_heartbeats(service: ScriptedService) -> None:
    service.script("/inference-workers", Reply.json({"heartbeat_interval_seconds": 0.01}))
    surprises: list[Exception] = [RuntimeError("no thread"), KeyError("base"), OSError("no descriptor")]

    def beat() -> InferenceHeartbeat:
        if surprises:
            raise surprises.pop()
        return InferenceHeartbeat(incarnation="first", doing="ready")

    async def story() -> None:
        control = HttpInferenceControl(url=service.url, worker_key="key", worker_id="inference-1")
        running = asyncio.create_task(Presence(control, START, beat=beat).run())
        await until(lambda: bool(service.to("/heartbeat")) or running.done())
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        control.close()

    asyncio.run(story())
    assert service.to("/heartbeat")
