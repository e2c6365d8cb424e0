"""The verbs that run something on this machine, beside those of `cli.verbs`, which only ask a service."""
