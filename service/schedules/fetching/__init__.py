"""Data that lies at an address: what may be fetched, fetching it, and keeping it as a file.

Nothing is connected to that was not checked, and no transaction is open while bytes move.
"""
