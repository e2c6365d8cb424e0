"""`tunesmith demo`: a real model, a real dataset and a real job, told step by step.

It uses the service as any client does. Bringing the service up is `local.up`'s.
"""
