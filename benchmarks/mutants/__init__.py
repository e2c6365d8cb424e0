"""Deliberate breakages of the code behind each promise, and whether the tests notice.

A promise is proven by tests that fail when it is broken. Here lives the list of what is broken on purpose, and the
runner that breaks it in copies of the repository; the tests themselves live in `tests/`.
"""
