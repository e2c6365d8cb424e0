"""A copy of an embedded installation in one folder, and an installation made from it.

Everything in the copy has its hash in a manifest, which is written last and checked first.
"""
