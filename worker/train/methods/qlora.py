"""QLoRA (arXiv 2305.14314): as LoRA, over a base held in 4-bit NF4 and dequantised as it is used.

Embeddings, norms and head keep the compute dtype. Upcasting them to fp32, as is common, would cost 2 GB on an 8B
model and gain nothing here: the head multiplies in the compute dtype and the loss is computed in fp32 anyway.
"""

from worker.train.checkpoints.state import Progress
from worker.train.methods import lora
from worker.train.run import Run


def train(run: Run) -> Progress:
    """The plan's `quantization` makes the loader quantise; everything after that is LoRA."""
    if run.plan.quantization is None:
        raise ValueError("a plan for QLoRA names its quantisation")
    return lora.train(run)
