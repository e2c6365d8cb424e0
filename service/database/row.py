"""What every table stands on: the base of rows, how constraints are named, and checks that several tables have."""

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Index, MetaData, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

from tunesmith.tuning.values.json_objects import Json

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def one_of(column: str, values: list[str]) -> str:
    """The condition that a column has one of these words."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


def holding(table: str) -> Index:
    """Finds the rows whose `files` hold some bytes."""
    return Index(f"ix_{table}_files", "files", postgresql_using="gin", postgresql_ops={"files": "jsonb_path_ops"})


class Row(DeclarativeBase):
    """Base of every table. Values that the database makes are read back by the statement that makes them."""

    metadata = MetaData(naming_convention=_NAMES)
    __mapper_args__ = {"eager_defaults": True}
    type_annotation_map = {
        str: Text(),
        int: BigInteger(),
        datetime: DateTime(timezone=True),
        Json: JSONB(none_as_null=True),
        list[Json]: JSONB(none_as_null=True),
        list[str]: JSONB(none_as_null=True),
    }
