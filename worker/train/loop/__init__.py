"""One run: optimizer steps, gradients in micro-steps, evaluation, recovery from lack of memory, the canary.

`loop.py` is the training loop from top to bottom; beside it each module owns one rule of a run.
"""
