"""Serving models: a gateway that the service asks, engines that it starts, and the right of way that training has.

No torch here: the engines are programs of their own, ours in `worker.inference.engine`.
"""
