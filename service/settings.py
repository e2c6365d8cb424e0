"""What the control plane can be told from outside, read from the environment when it starts."""

from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tunesmith.tuning.values.broker_url import broker_url

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class ProjectLimits(BaseModel):
    """The most that one project may have at a time; None is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    running_jobs: Count | None = None
    queued_jobs: Count | None = 10_000
    stored_bytes: Count | None = None  # of files, checkpoints and results; base models are everybody's
    gpu_hours_per_month: Annotated[float, Field(ge=0)] | None = None  # of calendar months in UTC

    def is_full(self, running: int) -> bool:
        """Whether a project that runs so many jobs may start no more."""
        return self.running_jobs is not None and running >= self.running_jobs


class Settings(BaseSettings):
    """Settings of the API and of the keeper. `DATABASE_URL` and `REDIS_URL` are unprefixed, as everywhere else."""

    model_config = SettingsConfigDict(env_prefix="TUNESMITH_", extra="ignore", frozen=True, populate_by_name=True)

    database_url: str = Field(validation_alias=AliasChoices("database_url", "DATABASE_URL"), repr=False)
    redis_url: str | None = Field(
        default=None, validation_alias=AliasChoices("redis_url", "REDIS_URL"), repr=False
    )  # without a broker workers ask over HTTP
    store: str
    signed_downloads: bool = False  # large files come from the store itself, which clients and workers must reach

    lease_seconds: Seconds = 60
    heartbeat_seconds: Seconds = 10
    keeper_seconds: Seconds = 5
    keeper_alive_file: Path | None = None  # touched after each sweep that worked, for whoever checks its health
    api_beat_seconds: Seconds | None = None  # how often an API says that it serves
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 4  # that fail
    max_lost_attempts: Annotated[int, Field(ge=1, le=1000)] = 10  # whose worker was lost
    retry_seconds: Seconds = 5  # before the second attempt of a failed job; doubles each time

    # Money for an hour of one GPU, or of a CPU worker, by worker class; "*" stands for all others.
    gpu_hour_prices: dict[str, Annotated[float, Field(ge=0, le=1_000_000)]] = {}

    # Limits by project; "*" stands for all others. What an admin has set for a project goes before.
    project_limits: dict[str, ProjectLimits] = {}

    # Models by names that clients of other services use: `gpt-4o-mini=smollm2-135m-instruct`, separated by commas.
    model_names: Annotated[dict[str, str], NoDecode] = {}

    # Models that members may have fetched from the hub, as patterns separated by commas: `HuggingFaceTB/*`.
    hub_models: Annotated[tuple[str, ...], NoDecode] = ()
    hub_url: Annotated[str, Field(pattern=r"^https?://[^/]")] = "https://huggingface.co"
    hub_token: SecretStr | None = None  # for repositories that ask for one
    max_hub_model_bytes: Annotated[int, Field(ge=1)] = 200 * 1024**3  # of all files of one
    hub_silence_seconds: Seconds = 30  # that the hub may send nothing

    max_upload_bytes: Annotated[int, Field(ge=1)] = 2 * 1024**3
    max_report_bytes: Annotated[int, Field(ge=1)] = 2 * 1024**2  # of reports, prompts, and a model's description
    max_body_bytes: Annotated[int, Field(ge=1)] = 256 * 1024  # of every other request that is not a stream of weights
    max_blob_bytes: Annotated[int, Field(ge=1)] = 128 * 1024**3  # of one file of weights

    # Addresses that are not public and may yet be sent webhooks to, as networks separated by commas.
    webhook_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    webhook_timeout_seconds: Seconds = 10  # for a whole answer

    patience_seconds: Seconds = 30  # with a sender who sends nothing; slower than a kilobyte a second uses it up
    max_requests_per_key: Annotated[int, Field(ge=1)] = 100  # open at once in each process
    max_waits_per_key: Annotated[int, Field(ge=1)] = 2_000  # likewise, of those that only wait for news
    max_connections: Annotated[int, Field(ge=1)] = 8_000  # of each process; more are answered 503

    worker_url: Annotated[str, Field(pattern=r"^https?://")] | None = None  # where workers elsewhere reach this service
    inference_silence_seconds: Seconds = 15  # that an inference worker may say nothing before it counts as gone
    inference_reader_seconds: Seconds = 30  # that a client may read nothing of an answer that streams

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ("*",)  # names in the Host header, separated by commas
    dataset_urls: Annotated[tuple[str, ...], NoDecode] = ()  # beginnings of https addresses, separated by commas
    private_dataset_hosts: Annotated[tuple[str, ...], NoDecode] = ()  # of them, names that may be private addresses
    firing_days: Annotated[int, Field(ge=1, le=36_500)] = 400  # after which the history of a schedule is forgotten
    dataset_seconds: Seconds = 600  # that fetching the data of a schedule may take

    spool_dir: Path | None = None  # where uploads are put aside until they are checked; unset: the system's own

    most_waiting: Annotated[int, Field(ge=1)] = 4000  # clients of one process: event streams and requests that wait

    pool_size: Annotated[int, Field(ge=1)] = 20
    pool_wait_seconds: Seconds = 5
    statement_seconds: Seconds = 8  # of one statement for a request
    log_format: str = "console"
    log_level: str = "info"

    @field_validator("redis_url")
    @classmethod
    def _check_broker(cls, value: str | None) -> str | None:
        return broker_url(value) if value else None

    @field_validator("allowed_hosts", "private_dataset_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip().lower() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("webhook_networks", "dataset_urls", "hub_models", mode="before")
    @classmethod
    def _split_parts(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("model_names", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [tuple(part.strip().split("=")) for part in value.split(",") if part.strip()]
        if not all(len(pair) == 2 and all(pair) for pair in pairs):
            raise ValueError("write NAME=MODEL, several separated by commas")
        return {name.strip(): model.strip() for name, model in pairs}

    def model_meant_by(self, name: str) -> str:
        """The model that clients of other services mean by this name; any other name means itself."""
        return self.model_names.get(name, name)

    def limits_of(self, project: str) -> ProjectLimits:
        """What this project may have."""
        return self.project_limits.get(project) or self.project_limits.get("*") or ProjectLimits()

    @property
    def beat_seconds(self) -> float:
        """How often an API says that it serves: unless set, every two seconds, and sixteen times a lease at least."""
        return self.api_beat_seconds or min(2.0, self.lease_seconds / 16)

    @property
    def worker_silence(self) -> timedelta:
        """How long a worker may be silent before it no longer counts as live: three heartbeats and a half."""
        return timedelta(seconds=max(3.5 * self.heartbeat_seconds, 2))
