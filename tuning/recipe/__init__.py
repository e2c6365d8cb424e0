"""What a run learns with: rank, learning rate, epochs and batch, each with its reason.

Nothing here depends on how fast or how large a machine is.
"""
