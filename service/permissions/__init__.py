"""Checkpoints by the names they are listed with, and which other projects may ask them.

A permission opens one checkpoint to one project, for answers and evaluations: nothing else of the job that made it.
"""
