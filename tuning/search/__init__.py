"""For one method: every way to launch it on a machine, priced, and the one that serves the goal.

Which method is right is not asked here; `tuning.planner` does that.
"""
