"""Import this before transformers: no library may ask a hub for anything, nor print bars into the log."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # some libraries ask a hub while they are imported
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
