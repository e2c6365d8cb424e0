"""The planner held against its own promises and against the questions of a review.

Neither needs torch or a GPU.
"""
