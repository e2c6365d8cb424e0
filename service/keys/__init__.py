"""API keys and lease tokens: made, hashed, found.

Who is calling is read from them in `service.web.auth`.
"""
