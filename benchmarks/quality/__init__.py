"""What the methods are worth: accuracy before and after on a task with a countable answer.

The task is the section of a Debian package from its name and summary; baselines use no language model.
"""
