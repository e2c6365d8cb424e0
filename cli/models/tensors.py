"""Reads the header of a safetensors file with the standard library alone, and proves that the file is whole.

The layout is 8 bytes of little-endian header length, a JSON header, then the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

import json
import struct
from pathlib import Path
from typing import Any

_LONGEST_HEADER_BYTES = 100_000_000  # the limit of the reference implementation


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> `{"dtype", "shape", "data_offsets"}`.

    Raises:
        ValueError: the file is truncated, or its header does not describe it.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ValueError(f"it has {size_bytes} bytes, too few for a safetensors header")
        (header_bytes,) = struct.unpack("<Q", prefix)
        if header_bytes > min(_LONGEST_HEADER_BYTES, size_bytes - 8):
            raise ValueError(f"its header claims {header_bytes} bytes, the file has {size_bytes - 8} left")
        tensors = _parsed(file.read(header_bytes))
    _require_all_bytes(tensors, present_bytes=size_bytes - 8 - header_bytes)
    return tensors


def _parsed(text: bytes) -> dict[str, dict[str, Any]]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")  # noqa: TRY004 - the file is wrong, not the caller
    header.pop("__metadata__", None)
    return header


def _require_all_bytes(tensors: dict[str, dict[str, Any]], *, present_bytes: int) -> None:
    try:
        needed_bytes = max((int(tensor["data_offsets"][1]) for tensor in tensors.values()), default=0)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("its header lacks data_offsets") from error
    if needed_bytes != present_bytes:
        raise ValueError(f"its header describes {needed_bytes} bytes of tensors, the file has {present_bytes}")
