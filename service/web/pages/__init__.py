"""What the service shows in a browser: its first page and the reference of its API.

They load nothing from anywhere else.
"""
