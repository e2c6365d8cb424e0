"""PostgreSQL: the rows and their rules, one transaction per request, migrations, ids, text that JSONB can hold.

Queries are in the `store` of the room they are about.
"""
