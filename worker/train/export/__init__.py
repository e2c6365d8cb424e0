"""The result folder: weights, tokenizer, model card, manifest, and a merged model that was checked.

Written once, at the end.
"""
