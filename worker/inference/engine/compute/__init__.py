"""The model over a batch of rows that belong to different sequences and adapters.

Every row has the bits that it has alone: see `products`, `thin` and `attention` for how.
"""
