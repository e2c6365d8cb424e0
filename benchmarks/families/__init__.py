"""Every causal language model of transformers, tiny, trained beside the class of transformers itself.

Writes docs/families.md, and fails when a family is trained or planned wrong.
"""
