"""A day on a GPU that this project has not had yet: what to run there first, in pieces of under eight minutes.

docs/gpu-day.md says what each piece answers.
"""
