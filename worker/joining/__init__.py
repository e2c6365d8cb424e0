"""How this machine became a worker, and whether it is fit to be one: `join` and `doctor`.

What `run` starts from is in `membership`.
"""
