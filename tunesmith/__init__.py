"""Tunesmith, as one import package: each folder here is a link to the folder of that name beside this one.

The wheel has the same names as real folders (docs/decisions/0008). Nothing else lives here.
"""
