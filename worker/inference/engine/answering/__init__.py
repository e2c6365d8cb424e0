"""From a prompt to an answer: who computes when, which token is drawn, which text that makes and where it ends.

Start with `engine`, the loop.
"""
