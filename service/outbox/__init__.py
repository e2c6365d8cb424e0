"""Telling the outside world after the commit: recorded with the change, delivered until it works."""
