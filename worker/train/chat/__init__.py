"""Conversations under chat templates: rendered safely, with every token told apart that the model should learn.

Tokens and masks of one conversation. Files of rows are read in `worker.train.data`.
"""
