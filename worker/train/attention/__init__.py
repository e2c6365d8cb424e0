"""Attention within the segments of a packed batch, on every kernel that PyTorch or a package offers.

`packed` is what models call, `choice` tries the planned kernel and takes the next when it fails.
"""
