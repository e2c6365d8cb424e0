"""The verb `data check`: a training file looked at here, before anything is sent or paid for.

Only a registered model's tokenizer is fetched from the service; rows stay on this machine.
"""
