"""What an operator sets for a worker, read from the environment."""

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tunesmith.tuning.values.broker_url import broker_url
from tunesmith.tuning.values.units import GIB
from tunesmith.worker.sandbox.choice import SandboxSetting


class WorkerSettings(BaseSettings):
    """One field per environment variable, named `TUNESMITH_<FIELD>` unless an alias says otherwise.

    Raises:
        pydantic.ValidationError: a variable is missing or has a value that cannot be used.
    """

    model_config = SettingsConfigDict(env_prefix="TUNESMITH_", extra="ignore")

    url: str = Field(pattern=r"^https?://")
    worker_key: SecretStr
    redis_url: SecretStr | None = Field(
        default=None, validation_alias="REDIS_URL"
    )  # without it wake-ups come over HTTP
    work_dir: Path
    slots: int = Field(default=1, ge=1, le=64)
    cpu_memory_gib: float | None = Field(default=None, gt=0)  # what the CPU slots offer together, at most
    grace_seconds: float = Field(default=120, gt=0)  # from SIGTERM to the end of the worker process
    cancel_grace_seconds: float = Field(default=10, gt=0)  # from a user's cancel to SIGKILL
    slot_wait_seconds: float = Field(default=30, ge=0)  # how long a slot may take to become free after its last user
    outage_patience_seconds: float = Field(default=6 * 3600, gt=0)  # how long a finished run waits for the service
    measure_constants: bool = True  # at the first start with this hardware; else the planner's assumptions hold
    # Fork trainers from a process that has their libraries imported; unset: where a slot has memory to spare for it.
    warm_trainer: bool | None = None
    stall_seconds: float = Field(default=900, gt=0)  # a trainer may show nothing for so long, or for longer by its plan
    sandbox: SandboxSetting = "auto"  # the best one around trainers that works here, or none; `require` refuses none
    disk_times_planned: float = Field(default=3, ge=1)  # a run that writes more than so many times its plan is stopped
    log_cap_bytes: int = Field(default=32 * 1024**2, ge=64 * 1024)
    kept_runs: int = Field(default=5, ge=0)  # run directories left for reading after the fact
    token_cache_bytes: int = Field(default=8 * GIB, ge=0)  # tokenised rows that later jobs find again; 0 keeps none
    log_format: str = Field(default="json", pattern="^(json|console)$")

    @field_validator("redis_url")
    @classmethod
    def _check_broker(cls, value: SecretStr | None) -> SecretStr | None:
        return SecretStr(broker_url(value.get_secret_value())) if value else None


class ProbeSettings(BaseSettings):
    """The part of the settings that `probe` needs, so that it runs without a service."""

    model_config = SettingsConfigDict(env_prefix="TUNESMITH_", extra="ignore")

    work_dir: Path = Path()
    slots: int = Field(default=1, ge=1, le=64)
    cpu_memory_gib: float | None = Field(default=None, gt=0)
