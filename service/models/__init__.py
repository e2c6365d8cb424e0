"""Base models and fine-tuned ones: registered, listed, deleted, and what each may be called.

Their bytes are in `service.blobs`, their shapes in `tuning.models`.
"""
