"""The GPU side: takes jobs from the service, trains them in processes of their own, and sends back what came of it.

Only `worker.train` imports torch, and only trainers import it. Start with `attempt.runner`.
"""
