"""Measuring models on rows: losses by the trainer's own forward pass, and answers. Nothing here learns."""
