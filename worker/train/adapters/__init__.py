"""Adapters on a frozen model: attaching them, their starting weights, and the modules that our own passes replace.

What those passes compute is in `worker.train.kernels`; loading a model is in `worker.train.models`.
"""
