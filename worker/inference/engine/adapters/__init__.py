"""Adapters of PEFT's format: read and checked, kept in memory within a bound, dropped and read again.

What the engine does not compute beside others is refused here, with the way out.
"""
