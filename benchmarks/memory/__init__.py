"""Predicted memory against what the trainer really allocates.

Tensors are counted on the meta device, so no GPU is needed and allocator and context are not part of it.
"""
