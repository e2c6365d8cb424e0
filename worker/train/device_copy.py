"""Copies from the host to a device that nothing waits for."""

import torch


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy without waiting: from pageable memory even a non-blocking copy waits for the work queued before it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
