"""The arithmetic that training spends its time in beside attention: adapter passes, norms, gates, the loss.

Functions of tensors alone; no model class, no files.
"""
