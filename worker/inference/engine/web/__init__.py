"""The routes: OpenAI's bodies in and out, vLLM's for adapters."""
