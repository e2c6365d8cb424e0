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
    api_beat_seconds: Seconds | None = None  # how often an API says that it serves
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 4  # that fail
    max_lost_attempts: Annotated[int, Field(ge=1, le=1000)] = 10  # whose worker was lost
    retry_seconds: Seconds = 5  # before the second attempt of a failed job; doubles each time

    # Money for an hour of one GPU, or of a CPU worker, by worker class; "*" stands for all others.
    gpu_hour_prices: dict[str, Annotated[float, Field(ge=0, le=1_000_000)]] = {}

    max_upload_bytes: Annotated[int, Field(ge=1)] = 2 * 1024**3
    max_body_bytes: Annotated[int, Field(ge=1)] = 16 * 1024**2  # of every other request that is not a stream of weights

    pool_size: Annotated[int, Field(ge=1)] = 10
    pool_wait_seconds: Seconds = 5
    log_format: str = "console"
    log_level: str = "info"

    @property
    def beat_seconds(self) -> float:
        """How often an API says that it serves: unless set, every two seconds, and sixteen times a lease at least."""
        return self.api_beat_seconds or min(2.0, self.lease_seconds / 16)

    @property
    def worker_silence(self) -> timedelta:
        """How long a worker may be silent before it no longer counts as live: three heartbeats and a half."""
        return timedelta(seconds=max(3.5 * self.heartbeat_seconds, 2))
