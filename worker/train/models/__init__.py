"""The base model: checked, loaded, tried on packed rows, and shared out over several GPUs.

Nothing here steps an optimizer or writes a result.
"""
