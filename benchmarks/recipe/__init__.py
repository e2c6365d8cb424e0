"""The recipe's learning rate and rank against a sweep around them, by held-out loss.

What is reported is the regret of "auto": how much better the best of the sweep is.
"""
