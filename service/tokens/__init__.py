"""Tokens of a training file, counted on a sample by the model's own tokenizer, in a process of its own.

A cache and a bound on work; the estimate itself is corrected in `tuning.datasets.token_scale`.
"""
