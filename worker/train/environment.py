"""Import this before torch: it settles by environment variables what libraries read once, while they load."""

import os

from tunesmith.worker.openmp import THREADS, allowed_threads


def set_process_defaults() -> None:
    """Set what the environment does not say; called once more where a process got another environment by a fork."""
    _settle_threads()
    # A thread that waits for its next product spins a little, then sleeps. LoRA on a 135M model, two cores, tokens/s
    # alone and of each of two at once: never spinning 267 and 206, 1,000 turns 355 and 180, 3,000 turns 371 and 135,
    # the library's default of 300,000 turns 359 and 43.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Products prepared for one number of tokens are kept for the next time, by PyTorch and by oneDNN, up to 1,024 each:
    # with packed rows nearly every micro-step has another size, and a 135M model grew by 16 MB a step. 256 hold a
    # step's.
    os.environ.setdefault("LRU_CACHE_CAPACITY", "256")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    # Importing NumPy would start threads for products that nothing here leaves to NumPy; a process with threads is
    # never forked.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Whether there is a GPU is asked of its driver library, not of CUDA, which a process may not touch before a fork.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # some libraries ask a hub while they are imported
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    # Without it rows of many lengths leave holes that no later batch fills; the planner's slack supposes it. An
    # operator's setting under the old name must not stand beside ours under the new one, which wins.
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def _settle_threads() -> None:
    said = os.environ.get(THREADS, "")
    wanted = int(said) if said.isdecimal() else len(os.sched_getaffinity(0))
    if (allowed := allowed_threads(wanted, os.environ)) < wanted:
        os.environ[THREADS] = str(allowed)


set_process_defaults()
