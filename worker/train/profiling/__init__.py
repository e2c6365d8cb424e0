"""Measurements of this machine and of model families that no formula gives.

Commands of their own and their parts; a training run uses no more than a rate.
"""
