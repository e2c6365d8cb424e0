"""Memory that was freed and that the C library still keeps for this process."""

import ctypes


def give_back() -> None:
    """To the system. Worth it after something large was read and laid out anew, where the C library can do it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
