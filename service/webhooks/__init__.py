"""Webhooks: telling addresses of a project's choice what happened, signed, again and again until they have heard.

Events come from the outbox (`fan_out`), `Courier` sends them, `sending` and `guard` decide what may be connected to.
"""
