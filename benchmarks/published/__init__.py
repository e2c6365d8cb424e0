"""Published fine-tuning runs beside what the planner predicts for them.

Writes docs/published.md, and fits the constants of speed to the runs that are not held out.
"""
