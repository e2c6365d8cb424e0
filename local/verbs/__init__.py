"""The verbs that run something on this machine, beside those of `cli.verbs`, which only ask a service.

What they run is in the other rooms of `local`; a verb reads options and prints what happens.
"""
