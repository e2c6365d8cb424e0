"""Answers of base and tuned models, for whoever asks the service.

`engine` computes them and is a process of its own; the rest starts one, watches it and speaks to it.
"""
