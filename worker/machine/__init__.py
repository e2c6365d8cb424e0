"""What this host has: its GPUs, processors, memory and limits, and which of them an attempt holds.

The only code that looks at hardware. What the numbers mean for a job is the planner's.
"""
