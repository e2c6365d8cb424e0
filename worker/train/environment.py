"""Import this before torch: it settles by environment variables what libraries read once, while they load."""

import os

# A thread that waits for its next product spins a little, then sleeps. LoRA on a 135M model, two cores, tokens/s
# alone and of each of two at once: never spinning 267 and 206, 1,000 turns 355 and 180, 3,000 turns 371 and 135, the
# library's default of 300,000 turns 359 and 43.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # some libraries ask a hub while they are imported
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
# Without it rows of many lengths leave holes that no later batch fills; the planner's slack supposes it.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
