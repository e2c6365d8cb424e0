"""Webhooks: the endpoints of a project, and what was sent to them. Shapes are OpenAI's, the log is ours."""
