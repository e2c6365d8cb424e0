"""What shuts a trainer in: it sees its run, its model and its libraries, no other process, no key and no network.

Standard library alone, because it runs in every trainer before the first line of training.
"""
