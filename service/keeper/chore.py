"""What a chore of the keeper is, and what it works with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tunesmith.service.announcer import Announcer
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.transactions import Database
from tunesmith.service.settings import Settings


@dataclass(frozen=True)
class KeeperContext:
    """What every chore can use. It opens its own transactions, short ones, none of them while anything is sent."""

    settings: Settings
    database: Database
    announcer: Announcer
    blobs: BlobStore


@dataclass(frozen=True)
class Chore:
    """Something to repair again and again."""

    name: str
    do: Callable[[KeeperContext], Awaitable[object]]
    every_seconds: float
