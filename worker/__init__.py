"""The GPU side: takes jobs from the service, trains them in processes of their own, and sends back what came of it.

Only `worker.train` and `worker.inference.engine` import torch, and both are processes of their own. Start with
`attempt.runner`.
"""
