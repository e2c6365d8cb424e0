"""How this machine became a worker, and whether it is fit to be one: `join`, `doctor`, and what `run` starts from."""
