"""Our own engine for CPUs and small hosts: one base in memory, many adapters, each request with its own.

A process of its own that speaks the routes of vLLM. It imports torch and knows no queue and no database. Start with
`answering.engine`.
"""
