"""Webhooks: the endpoints of a project, and what was sent to them."""
