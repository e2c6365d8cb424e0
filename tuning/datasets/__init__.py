"""Training rows: what one may look like, how a file of them is checked and counted, and how rows are shared out.

Counts and rules about data alone. Turning rows into tokens for training is the trainer's.
"""
