"""The shape of the source: sizes of files, functions and folders, and what docstrings say.

`make house` prints it. Nothing is imported from what is measured; the syntax trees are read.
"""
