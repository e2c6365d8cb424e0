"""The routes: OpenAI's bodies in and out, vLLM's for adapters.

They check and translate; what is computed, and when, the engine decides.
"""
