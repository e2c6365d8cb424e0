"""The training engine against TRL on the same rows, model and machine, in processes of their own.

Gates come first: the same tokens, trainable parameters and losses, or no speed is reported.
"""
