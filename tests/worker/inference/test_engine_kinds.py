"""Each engine is started by its own command line, and one elsewhere answers for what it lists."""

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.machines import CPU, ONE_GPU
from tests.stack import stand_in_engine
from tests.worker.inference.conftest import Host, running, until
from tests.worker.scripted_service import Reply, ScriptedService
from tunesmith.tuning.errors import Unserved
from tunesmith.tuning.inference_messages import ServedModel
from tunesmith.tuning.values.units import GIB
from tunesmith.worker.inference import engine_kinds
from tunesmith.worker.inference.elsewhere import EngineElsewhere
from tunesmith.worker.inference.engine_kinds import EngineKind, NoEngine, kind_of
from tunesmith.worker.inference.settings import InferenceSettings


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> InferenceSettings:
    monkeypatch.setenv("TUNESMITH_URL", "http://127.0.0.1:8101")
    monkeypatch.setenv("TUNESMITH_WORKER_KEY", "ts-key")
    monkeypatch.setenv("TUNESMITH_WORK_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return InferenceSettings()


def test_vllm_is_started_with_adapters_that_come_while_it_runs() -> None:
    kind = EngineKind(name="vllm", program=("/bin/vllm",), context_tokens=4096)
    launch = kind.launch(Path("/models/x"), served_as="base-1", port=7, key="secret", gpus=2)
    words = " ".join(launch.words)
    assert words.startswith("/bin/vllm serve /models/x --served-model-name base-1 --host 127.0.0.1 --port 7")
    assert "--max-model-len 4096 --enable-lora" in words
    assert "--tensor-parallel-size 2" in words
    assert "secret" not in words  # whoever lists processes would read it
    assert launch.environment["VLLM_API_KEY"] == "secret"
    assert launch.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert kind.memory_bytes(GIB, ONE_GPU) == ONE_GPU.gpus[0].memory_free_bytes


def test_our_own_engine_takes_about_what_its_base_does() -> None:
    kind = EngineKind(name="tunesmith", program=("python",))
    launch = kind.launch(Path("/models/x"), served_as="base-1", port=7, key="secret", gpus=0)
    assert launch.words[:3] == ("python", "--model", "/models/x")
    assert launch.environment == {"TUNESMITH_ENGINE_KEY": "secret"}
    assert GIB < kind.memory_bytes(GIB, ONE_GPU) < kind.memory_bytes(GIB, CPU) < 3 * GIB


def test_vllm_is_taken_where_it_is_installed_and_without_any_engine_the_next_step_is_told(
    settings: InferenceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_kinds.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(NoEngine) as refused:
        kind_of(settings)
    assert "TUNESMITH_INFERENCE_ENGINE_URL" in str(refused.value.hint)
    monkeypatch.undo()
    stand_in_engine.in_place_of_vllm(settings.work_dir)
    monkeypatch.setenv("PATH", str(settings.work_dir))
    assert kind_of(settings).program == (str(settings.work_dir / "vllm"),)


def test_our_own_engine_is_a_module_of_the_worker(settings: InferenceSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        engine_kinds.importlib.util, "find_spec", lambda _name: importlib.util.spec_from_loader("x", None)
    )
    assert kind_of(settings).program == (sys.executable, "-P", "-m", "tunesmith.worker.inference.engine")


def test_a_setting_of_no_sense_is_refused_by_its_variable(
    settings: InferenceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (("TUNESMITH_INFERENCE", "often"), ("TUNESMITH_INFERENCE_PORT", "-1")):
        monkeypatch.setenv(variable, value)
        with pytest.raises(ValidationError):
            InferenceSettings()
        monkeypatch.delenv(variable)


def test_an_engine_elsewhere_answers_for_the_names_that_it_lists_and_no_more(host: Host, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"tiny")
    engine = stand_in_engine.StandIn(tmp_path, name="tiny", key="key")

    async def story() -> None:
        async with running(engine.application) as url:
            elsewhere = EngineElsewhere(url, key="key", silence_seconds=10)
            assert elsewhere.doing() == "draining"  # nothing is known of it yet
            base = host.base("tiny")
            async with elsewhere.using(ServedModel(name="tiny", base=base), print) as loaded:
                asked = {"model": loaded.name, "messages": [{"role": "user", "content": "hello"}]}
                async with loaded.engine.ask("chat/completions", asked) as response:
                    assert host.said(base=base) in (await response.aread()).decode()
            assert (elsewhere.doing(), elsewhere.names()) == ("serving", ("tiny",))
            with pytest.raises(Unserved, match="does not serve 'tuned'"):
                async with elsewhere.using(ServedModel(name="tuned", base=base, adapter=host.adapter("tuned")), print):
                    pass
            await elsewhere.close()

    asyncio.run(story())


def test_whatever_an_engine_elsewhere_answers_it_is_asked_again_what_it_serves(service: ScriptedService) -> None:
    service.script("/v1/models", Reply.json(["tiny"]), Reply(200, b"[" * 100_000))
    service.otherwise = lambda _request: Reply.json({"data": [{"id": "tiny"}]})

    async def story() -> None:
        elsewhere = EngineElsewhere(service.url, key=None, silence_seconds=10, look_seconds=0.01)
        watching = asyncio.create_task(elsewhere.watch())
        await until(lambda: elsewhere.names() == ("tiny",) or watching.done())
        assert elsewhere.names() == ("tiny",)
        await elsewhere.close()
        await watching

    asyncio.run(story())
