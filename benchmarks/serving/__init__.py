"""Many adapters of one base, asked at once: our engine beside PEFT's mixed batch and a model for each adapter.

`python -m benchmarks.serving` measures all sides on this machine in one run, in turn.
"""
