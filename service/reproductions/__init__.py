"""Running a finished job again exactly as it was, and the verdict on whether the result is the same.

What has to agree is decided in `tuning.planner.reproduction`.
"""
