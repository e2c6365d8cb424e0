"""Whom one process of the API answers: a word of its command line, which imports nothing."""

from enum import StrEnum


class Routes(StrEnum):
    """Whom a process answers."""

    ALL = "all"
    PUBLIC = "public"  # people and programs: everything under /v1
    WORKERS = "workers"  # what is under /internal, so that nobody else's requests can hold up a heartbeat
