"""Asking models: which inference worker answers, and its answer on the way to the client.

The engines are the workers' own; what is said to a worker's gateway is in `tuning.inference_messages`.
"""
