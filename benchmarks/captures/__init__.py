"""What each verb of the command prints, captured from a real installation.

It writes `docs/captures.md` and judges nothing: people read it for ugly tables and half sentences.
"""
