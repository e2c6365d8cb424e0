"""Import this before torch: it settles by environment variables what libraries read once, while they load."""

import os

# Threads that wait must sleep, not spin. On two cores shared with other processes spinning made a step of a 135M model
# five times slower (53 against 253 tokens/s). What waking costs on an idle machine has not been measured.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # some libraries ask a hub while they are imported
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
