"""How many threads products on a CPU are shared out among."""

from collections.abc import Mapping

THREADS = "OMP_NUM_THREADS"
_LIMIT = "OMP_THREAD_LIMIT"


def allowed_threads(wanted: int, environment: Mapping[str, str]) -> int:
    """`wanted`, or the environment's OMP_THREAD_LIMIT where that is lower.

    Products in bfloat16 come out wrong, infinities among them, when more threads are asked for than that limit lets
    start: torch 2.13.0 and oneDNN on an AMD EPYC with AVX-512 BF16, 2 threads under a limit of 1, 2026-11-29.
    """
    limit = environment.get(_LIMIT, "").strip()
    return min(wanted, int(limit)) if limit.isdecimal() and int(limit) else wanted
