"""What can go wrong with an embedded server, each with the next step.

EmbeddedError
├── BinaryNotFound            no usable server program on this machine
├── NoPrivilege               the server refuses to run as root and no way around it exists here
├── DirectoryInUse            another process owns the data directory
├── DirectoryUnusable         not writable, foreign, damaged, or of another server version
├── DiskFull                  no space left for the server's files
├── PortTaken                 something else listens there
└── ServerFailed              the server stopped or did not answer, with the end of its log
"""

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError


class EmbeddedError(TunesmithError):
    """Base of every failure of an embedded server. `hint` is the next step."""


class BinaryNotFound(EmbeddedError):
    """No usable server program was found."""

    code = ErrorCode.SERVER_BINARY_NOT_FOUND


class NoPrivilege(EmbeddedError):
    """PostgreSQL refuses to run as root, and this machine offers no way to step down."""

    code = ErrorCode.CANNOT_STEP_DOWN_FROM_ROOT


class DirectoryInUse(EmbeddedError):
    """Another process holds the lock of the data directory."""

    code = ErrorCode.DATA_DIRECTORY_IN_USE


class DirectoryUnusable(EmbeddedError):
    """The data directory cannot be written, belongs to something else, is damaged or is of another version."""

    code = ErrorCode.DATA_DIRECTORY_UNUSABLE


class DiskFull(EmbeddedError):
    """The server could not write its files."""

    code = ErrorCode.DISK_FULL


class PortTaken(EmbeddedError):
    """Another process listens on the address."""

    code = ErrorCode.PORT_TAKEN


class ServerFailed(EmbeddedError):
    """The server stopped or did not become ready in time."""

    code = ErrorCode.SERVER_FAILED
