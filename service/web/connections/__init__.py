"""The HTTP server and its connections.

What uvicorn is taught beyond what it does by itself belongs here.
"""
