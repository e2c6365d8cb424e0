"""Whether one model is better than another on the same rows, by more than chance explains: pure arithmetic.

It knows losses and hits of rows, and nothing of models, files or jobs.
"""
