"""What the control plane can be told from outside, read from the environment when it starts."""

from datetime import timedelta
from typing import Annotated

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """Settings of the API and of the keeper. `DATABASE_URL` and `REDIS_URL` are unprefixed, as everywhere else."""

    model_config = SettingsConfigDict(env_prefix="TUNESMITH_", extra="ignore", frozen=True, populate_by_name=True)

    database_url: str = Field(validation_alias=AliasChoices("database_url", "DATABASE_URL"), repr=False)
    redis_url: str | None = Field(
        default=None, validation_alias=AliasChoices("redis_url", "REDIS_URL"), repr=False
    )  # without a broker jobs are taken in, but no worker hears of them
    store: str

    lease_seconds: Seconds = 60
    heartbeat_seconds: Seconds = 10
    keeper_seconds: Seconds = 5
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 4
    retry_seconds: Seconds = 5  # before the second attempt of a failed job; doubles each time

    # Money for an hour of one GPU, or of a CPU worker, by worker class; "*" stands for all others.
    gpu_hour_prices: dict[str, Annotated[float, Field(ge=0, le=1_000_000)]] = {}

    max_upload_bytes: Annotated[int, Field(ge=1)] = 2 * 1024**3
    max_body_bytes: Annotated[int, Field(ge=1)] = 16 * 1024**2  # of every other request that is not a stream of weights

    most_waiting: Annotated[int, Field(ge=1)] = 4000  # clients of one process: event streams and requests that wait

    pool_size: Annotated[int, Field(ge=1)] = 10
    pool_wait_seconds: Seconds = 5
    log_format: str = "console"
    log_level: str = "info"

    @property
    def worker_silence(self) -> timedelta:
        """How long a worker may be silent before it no longer counts as live: three heartbeats and a half."""
        return timedelta(seconds=max(3.5 * self.heartbeat_seconds, 2))
