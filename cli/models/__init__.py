"""Base models on the way in: checked, converted, hashed, registered.

Reads a folder, a GGUF file or a hub repository and speaks HTTP; weights are looked at and never computed with.
"""
