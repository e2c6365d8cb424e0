"""Training rows: from JSON lines to token ids with marks, and from rows to packed batches.

Knows tokenizers and templates; no weights are touched here.
"""
