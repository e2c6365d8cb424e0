"""Choosing how to train a job: the ordered rules, the plan with its reasons, and refusals that say what would do.

`choose.choose` is the way in. Numbers come from the rooms below; what is decided here carries its reason.
"""
