"""One run: optimizer steps, gradients in micro-steps, evaluation, recovery from lack of memory, the canary.

The story of a run is here; its parts are in the other rooms.
"""
