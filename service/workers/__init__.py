"""Workers as the service knows them: alive or silent, their hardware, what they hold.

Their claims and reports are in `service.attempts`.
"""
