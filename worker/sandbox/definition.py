"""What one trainer may see and do, as a value that a command line and a message can carry."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["namespaces", "landlock"]
KINDS: tuple[Kind, ...] = ("namespaces", "landlock")  # best first


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """Paths are absolute. What is in no list does not exist for the trainer, or is refused to it."""

    kind: Kind
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    hidden: tuple[str, ...] = ()  # never shown, though they lie below something readable
    home: str  # below something writable; takes the place of HOME: what libraries keep there is the project's own
    scratch: str  # the same for temporary files, where there is no /tmp of its own
    largest_file_bytes: int
    most_processes: int = 16_384
    talks: bool = False  # to other processes of the same run, over TCP on this host

    def dumped(self) -> str:
        """As one word of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def loaded(cls, text: str) -> "Sandbox":
        """The opposite of `dumped`."""
        values: dict[str, Any] = json.loads(text)
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values)


def real_paths(paths: tuple[str, ...]) -> list[str]:
    """Those that exist, with every link followed, none below another."""
    found = sorted({str(Path(path).resolve()) for path in paths if Path(path).exists()})
    return [path for path in found if not any(is_below(path, other) for other in found)]


def is_below(path: str, other: str) -> bool:
    """Whether `path` lies in the folder `other`, and is not `other` itself."""
    return path != other and path.startswith(other.rstrip("/") + "/")
