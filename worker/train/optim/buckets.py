"""Gradients of several processes, added up in flat buckets while the backward pass still runs.

The way of PyTorch's DistributedDataParallel (arXiv 2006.15704, section 3.2): one sum over processes for many gradients
instead of one for each, begun as soon as the last of them is complete, so that most of it hides behind the backward
pass. Every process begins the same buckets in the same order, whatever it has computed itself.
"""

from collections.abc import Sequence

import torch
import torch.distributed
from torch import nn

ALIGNMENT_ELEMENTS = 16  # 64 bytes of fp32, which the widest vector loads want


class GradientBuckets:
    """Holds the fp32 gradients of masters: each `grad` is a part of a bucket, so that nothing is copied to be summed.

    A step is: any number of passes, `begin` before the last of this process's, `finish` after it. `finish` alone does
    for a process that has no pass. It is called once a step in every process.
    """

    def __init__(self, pairs: Sequence[tuple[nn.Parameter, nn.Parameter]], *, bucket_bytes: int) -> None:
        """`pairs` holds each parameter that learns, in the model's order, with its master, which may be itself."""
        masters = [master for _, master in pairs]
        # The backward pass goes through the model from its end, so that is where the first bucket lies.
        self._members = _in_buckets(masters[::-1], bucket_elements=max(1, bucket_bytes // 4))
        self._buckets = [_bucket_of(members) for members in self._members]
        self._incomplete: list[int] = []  # gradients that each bucket waits for, during the last pass
        self._begun: list[torch.distributed.Work] = []
        place = {id(member): index for index, members in enumerate(self._members) for member in members}
        for parameter, master in pairs:
            self._follow(parameter, bucket=place[id(master)])

    def begin(self) -> None:
        """The pass that comes is this process's last: a gradient that it has added is complete."""
        self._incomplete = [len(members) for members in self._members]

    def finish(self) -> None:
        """Begin what the pass has left, a gradient that it did not touch or all of them, and wait for every sum."""
        while len(self._begun) < len(self._buckets):
            self._begin_next()
        for work in self._begun:
            work.wait()
        self._begun, self._incomplete = [], []

    def clear(self) -> None:
        """All gradients are zero."""
        for bucket in self._buckets:
            bucket.zero_()

    def _follow(self, parameter: nn.Parameter, *, bucket: int) -> None:
        parameter.register_post_accumulate_grad_hook(lambda _: self._note(bucket))

    def _note(self, bucket: int) -> None:
        """A pass has added one of the bucket's gradients."""
        if not self._incomplete:
            return
        if bucket < len(self._begun):
            raise RuntimeError("a gradient was added twice in a pass, after its sum over processes had begun")
        self._incomplete[bucket] -= 1
        while len(self._begun) < len(self._buckets) and self._incomplete[len(self._begun)] == 0:
            self._begin_next()

    def _begin_next(self) -> None:
        bucket = self._buckets[len(self._begun)]
        work = torch.distributed.all_reduce(bucket, async_op=True)
        assert work is not None  # noqa: S101 - None is for processes outside of the group
        self._begun.append(work)


def _in_buckets(parameters: Sequence[nn.Parameter], *, bucket_elements: int) -> list[list[nn.Parameter]]:
    """Neighbours together, up to so many elements; a larger one alone. Parameters on two devices never share one."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        size = _padded(parameter)
        if not buckets or size > room or parameter.device != buckets[-1][-1].device:
            buckets.append([])
            room = bucket_elements
        buckets[-1].append(parameter)
        room -= size
    return buckets


def _bucket_of(members: Sequence[nn.Parameter]) -> torch.Tensor:
    """One flat tensor of zeros, every gradient a view of it with its parameter's own strides."""
    flat = torch.zeros(sum(map(_padded, members)), dtype=torch.float32, device=members[0].device)
    start = 0
    for member in members:
        member.grad = flat.as_strided(member.shape, member.stride(), start)
        start += _padded(member)
    return flat


def _padded(parameter: nn.Parameter) -> int:
    return -(-parameter.numel() // ALIGNMENT_ELEMENTS) * ALIGNMENT_ELEMENTS
