"""Predicted memory against what the trainer really allocates."""
