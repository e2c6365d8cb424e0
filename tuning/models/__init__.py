"""What a model is made of: matrices, sizes and exact parameter counts, read from a config.json without weights.

Nothing here knows a job, a machine or a plan.
"""
