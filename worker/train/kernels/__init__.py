"""The arithmetic that training spends its time in: attention over segments, adapter passes, the loss.

Functions of tensors alone; no model class, no files.
"""
