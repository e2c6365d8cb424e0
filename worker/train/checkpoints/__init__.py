"""The state of a run on its way to disk and back, so that a resumed run ends with the same bytes.

Nothing here decides what a step computes.
"""
