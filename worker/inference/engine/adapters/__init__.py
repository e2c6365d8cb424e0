"""Adapters of PEFT's format: read and checked, kept in memory within a bound, dropped and read again."""
