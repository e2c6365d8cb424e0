"""What an operator sets for an inference worker, read from the environment."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from tunesmith.tuning.values.units import GIB
from tunesmith.worker.sandbox.choice import SandboxSetting

Seconds = Annotated[float, Field(gt=0)]


class InferenceSettings(BaseSettings):
    """One field per environment variable: those of the worker, and `TUNESMITH_INFERENCE_<FIELD>` for the others.

    Raises:
        pydantic.ValidationError: a variable is missing or has a value that cannot be used.
    """

    model_config = SettingsConfigDict(env_prefix="TUNESMITH_INFERENCE_", extra="ignore", populate_by_name=True)

    service_url: str = Field(pattern=r"^https?://", validation_alias="TUNESMITH_URL")
    worker_key: SecretStr = Field(validation_alias="TUNESMITH_WORKER_KEY")
    work_dir: Path = Field(validation_alias="TUNESMITH_WORK_DIR")
    slots: int = Field(default=1, ge=1, le=64, validation_alias="TUNESMITH_SLOTS")
    cpu_memory_gib: float | None = Field(default=None, gt=0, validation_alias="TUNESMITH_CPU_MEMORY_GIB")
    log_format: str = Field(default="json", pattern="^(json|console)$", validation_alias="TUNESMITH_LOG_FORMAT")

    sandbox: SandboxSetting = Field(default="auto", validation_alias="TUNESMITH_SANDBOX")  # that of the trainers

    # `idle`: from a slot that nobody trains on. `always`: from a slot that jobs then do not get. `off`: not at all.
    mode: Literal["off", "idle", "always"] = Field(default="idle", validation_alias="TUNESMITH_INFERENCE")
    engine: Literal["auto", "tunesmith", "vllm"] = "auto"  # auto: vLLM where it is installed, else our own
    engine_url: str | None = Field(default=None, pattern=r"^https?://")  # of an engine that runs elsewhere
    engine_key: SecretStr | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)  # 0: any free one
    url: str | None = Field(default=None, pattern=r"^https?://")  # how the service reaches it; unset: by host and port
    most_requests: int = Field(default=256, ge=1)  # under way and waiting together
    grace_seconds: Seconds = 5  # for answers under way when a job wants the slot, or the process has to end
    idle_seconds: Seconds = 600  # after the last answer an engine ends and gives its memory back
    start_seconds: Seconds = 300  # that an engine may take to load a base
    silence_seconds: Seconds = 300  # that an engine may say nothing while it answers
    context_tokens: int | None = Field(default=None, ge=1)  # at most; unset: what the model allows
    cache_bytes: int = Field(default=8 * GIB, ge=0)  # adapters on disk that later requests find again
