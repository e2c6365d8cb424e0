"""The rows of serving: inference workers as they last described themselves, and the tokens that projects used."""

from datetime import datetime

from sqlalchemy import CheckConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.service.database.row import Row, one_of


class InferenceWorker(Row):
    """One that answers for models, as it last described itself. `secret` opens its gateway until it starts again."""

    __tablename__ = "inference_workers"
    __table_args__ = (CheckConstraint(one_of("doing", ["ready", "serving", "training", "draining"]), name="doing"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    incarnation: Mapped[str]
    hostname: Mapped[str]
    version: Mapped[str]
    worker_class: Mapped[str]
    engine: Mapped[str]
    url: Mapped[str]
    secret: Mapped[str]
    memory_bytes: Mapped[int]
    doing: Mapped[str]
    bases: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))  # digests of those in memory
    names: Mapped[list[str] | None]  # all that it serves; null: whatever it can fetch
    requests: Mapped[int] = mapped_column(server_default=text("0"))
    registered_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    key_lineage: Mapped[str | None]  # of the key that registered it; null until a call after an upgrade


class InferenceUsage(Row):
    """What a project has asked of models so far."""

    __tablename__ = "inference_usage"

    project: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
