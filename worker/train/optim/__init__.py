"""Optimizers over fp32 masters, whole or shared out among processes, and the learning rate of each step.

Nothing here knows rows or files of a run.
"""
