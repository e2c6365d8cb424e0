"""Keys, projects and the audit log, for administrators: `/v1/keys`, `/v1/projects`, `/v1/audit`.

What a key may do is decided in `web.auth`, what a project may have in `projects`, and how a key lives in `keys`.
"""
