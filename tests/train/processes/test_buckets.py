"""Gradients of several processes are summed bucket by bucket, in one order everywhere, while the backward pass runs."""

import pytest
import torch
from torch import nn

from tunesmith.worker.train.optim.buckets import GradientBuckets

BUCKET_BYTES = 4 * (64 + 16)  # one bucket for weight and bias of each layer of `Chain`


class Chain(nn.Module):
    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(7, 7) for _ in range(layers))

    def forward(self, states: torch.Tensor, *, without: int | None = None) -> torch.Tensor:
        for index, layer in enumerate(self.layers):
            states = states if index == without else layer(states)
        return states.square().sum()


class Sums:
    """Stands for two processes of equal gradients: every sum doubles what is there when it is waited for."""

    def __init__(self) -> None:
        self.begun: list[torch.Tensor] = []
        self.during_backward = 0
        self.in_backward = False

    def all_reduce(self, bucket: torch.Tensor, *, async_op: bool) -> "Sum":
        assert async_op
        self.begun.append(bucket)
        self.during_backward += self.in_backward
        return Sum(bucket, bucket.clone())


class Sum:
    def __init__(self, bucket: torch.Tensor, at_begin: torch.Tensor) -> None:
        self._bucket, self._at_begin = bucket, at_begin

    def wait(self) -> None:
        assert torch.equal(self._bucket, self._at_begin), "a gradient changed while its sum was under way"
        self._bucket.mul_(2)


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> Sums:
    found = Sums()
    monkeypatch.setattr(torch.distributed, "all_reduce", found.all_reduce)
    return found


@pytest.fixture
def chain() -> Chain:
    torch.manual_seed(0)
    return Chain()


def buckets_of(chain: Chain, *, bucket_bytes: int = BUCKET_BYTES) -> GradientBuckets:
    return GradientBuckets([(value, value) for value in chain.parameters()], bucket_bytes=bucket_bytes)


def passed(chain: Chain, buckets: GradientBuckets, sums: Sums, *, last: bool, without: int | None = None) -> None:
    loss = chain(torch.ones(3, 7), without=without)
    if last:
        buckets.begin()
    sums.in_backward = True
    loss.backward()
    sums.in_backward = False


def plain_gradients(chain: Chain, *, passes: int, without: int | None = None) -> list[torch.Tensor]:
    twin = Chain()
    twin.load_state_dict(chain.state_dict())
    for _ in range(passes):
        twin(torch.ones(3, 7), without=without).backward()
    return [torch.zeros_like(value) if value.grad is None else value.grad for value in twin.parameters()]


def test_each_bucket_is_begun_as_soon_as_the_backward_pass_has_left_it(chain: Chain, sums: Sums) -> None:
    buckets = buckets_of(chain)
    passed(chain, buckets, sums, last=False)
    assert sums.begun == []  # sums over passes stay in the process
    passed(chain, buckets, sums, last=True)
    assert sums.during_backward == 4
    buckets.finish()
    for value, wanted in zip(chain.parameters(), plain_gradients(chain, passes=2), strict=True):
        torch.testing.assert_close(value.grad, 2 * wanted)


def test_what_a_pass_does_not_touch_is_summed_all_the_same_and_in_the_same_order(chain: Chain, sums: Sums) -> None:
    buckets = buckets_of(chain)
    passed(chain, buckets, sums, last=True)
    buckets.finish()
    whole = [id(bucket) for bucket in sums.begun]
    buckets.clear()
    sums.begun.clear()
    passed(chain, buckets, sums, last=True, without=2)
    assert len(sums.begun) == 1  # the next bucket waits for a gradient that does not come
    buckets.finish()
    assert [id(bucket) for bucket in sums.begun] == whole
    for value, wanted in zip(chain.parameters(), plain_gradients(chain, passes=1, without=2), strict=True):
        torch.testing.assert_close(value.grad, 2 * wanted)


def test_a_process_without_a_pass_takes_part(chain: Chain, sums: Sums) -> None:
    buckets_of(chain).finish()
    assert len(sums.begun) == 4
    assert all(value.grad is not None and not value.grad.any() for value in chain.parameters())


def test_a_pass_that_broke_off_leaves_every_sum_to_be_finished_once(chain: Chain, sums: Sums) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    buckets = buckets_of(chain)
    handle = chain.layers[1].register_full_backward_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        passed(chain, buckets, sums, last=True)
    handle.remove()
    assert 0 < len(sums.begun) < 4
    buckets.finish()
    assert len(sums.begun) == 4
    buckets.clear()
    passed(chain, buckets, sums, last=True)
    buckets.finish()
    assert len(sums.begun) == 8
    for value, wanted in zip(chain.parameters(), plain_gradients(chain, passes=1), strict=True):
        torch.testing.assert_close(value.grad, 2 * wanted)


def test_buckets_hold_neighbours_up_to_their_size_and_a_larger_tensor_alone() -> None:
    sizes = [10, 10, 500, 10, 40]
    parameters = [nn.Parameter(torch.zeros(size)) for size in sizes]
    buckets = GradientBuckets([(value, value) for value in parameters], bucket_bytes=4 * 64)
    assert [[len(member) for member in members] for members in buckets._members] == [[40, 10], [500], [10, 10]]


def test_a_gradient_lies_as_its_parameter_does() -> None:
    transposed = nn.Parameter(torch.zeros(3, 5).t())
    assert transposed.stride() == (1, 5)
    GradientBuckets([(transposed, transposed)], bucket_bytes=64)
    assert transposed.grad is not None
    assert transposed.grad.stride() == (1, 5)


def test_a_gradient_that_comes_twice_in_a_pass_is_an_error_and_not_a_wrong_sum(chain: Chain, sums: Sums) -> None:
    buckets = buckets_of(chain)
    passed(chain, buckets, sums, last=True)
    again = chain(torch.ones(3, 7))
    with pytest.raises(RuntimeError, match="added twice"):
        again.backward()
