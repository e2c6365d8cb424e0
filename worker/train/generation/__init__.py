"""Answers of a model: samples during training, and the command that compares two models.

Nothing here learns.
"""
