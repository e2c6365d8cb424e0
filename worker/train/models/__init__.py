"""The base model and what is put on it: loading, adapters, and where our own passes replace a library's.

Nothing here steps an optimizer or writes a result.
"""
