"""How training goes: metric points and sample answers, merged over attempts, and the result file.

Numbers of one job; counts for monitoring are in `service.monitoring`.
"""
