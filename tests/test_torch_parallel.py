"""The modules in several processes, and where a forward pass is run again for backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from lapse.core.errors import LapseError
from torch_support import (
    MODULES,
    assert_close,
    flat,
    gradients,
    in_every_module,
    one_thread,  # noqa: F401  for every test here
)

NOISE = "x:.3@BTF h:.4@BFG s:.1@BTF>prev U:.2@IO y:.2@BF x:.1@BT~gauss"
STACK: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "dropout": 0.3}
EACH = 3  # sequences in each process


class Net(nn.Module):
    """A layer with noise, and a readout of its mean output."""

    def __init__(self, ours: type) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = ours(5, 7, batch_first=True, noise=NOISE, **STACK)
        self.readout = nn.Linear(14, 1)

    def forward(self, x: Tensor, masks: Any = None) -> Tensor:
        return self.readout(self.layer(x, masks=masks)[0].mean(1)).squeeze(1)


def loss_of(model: nn.Module, x: Tensor, target: Tensor, masks: Any = None) -> Tensor:
    return nn.functional.mse_loss(model(x, masks), target)


def data() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(2 * EACH, 9, 5, generator=random)
    return x, torch.randn(2 * EACH, generator=random)


def work(rank: int, folder: str) -> None:
    """One of two processes: what it finds, it writes down."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    own = range(rank * EACH, (rank + 1) * EACH)
    x, target = (part[list(own)] for part in data())
    found: dict[str, Any] = {}
    for ours in MODULES:
        net = Net(ours)
        model = DistributedDataParallel(net)
        masks = net.layer.draw_masks(EACH, 9, seed=11, samples=own)
        loss = loss_of(model, x, target, masks)
        loss.backward()
        kept = loss.item(), {name: p.grad.clone() for name, p in net.named_parameters()}
        torch.manual_seed(rank)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model, x, target).backward()
            optimizer.step()
        noisy = net(data()[0][:EACH]).detach()
        found[ours.__name__] = *kept, net.state_dict(), noisy
    torch.save(found, f"{folder}/{rank}")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / str(rank)) for rank in range(2)]


@in_every_module
def test_two_processes_find_the_loss_and_gradients_of_one(
    ours: type, processes: list[dict[str, Any]]
) -> None:
    """With the masks of one batch: each draws its own sequences' by their numbers."""
    net, (x, target) = Net(ours), data()
    loss = loss_of(net, x, target, net.layer.draw_masks(2 * EACH, 9, seed=11))
    loss.backward()
    losses = [found[ours.__name__][0] for found in processes]
    assert losses[0] != losses[1]
    assert sum(losses) / 2 == pytest.approx(loss.item(), rel=1e-6)
    for found in processes:
        averaged = found[ours.__name__][1]
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(averaged[name], parameter.grad, rtol=1e-5, atol=1e-7)


@in_every_module
def test_two_processes_stay_one_model_under_noise_of_their_own(
    ours: type, processes: list[dict[str, Any]]
) -> None:
    (_, _, first, noisy), (_, _, second, other) = (found[ours.__name__] for found in processes)
    before = Net(ours).state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name])
        assert not torch.equal(value, before[name])
    assert not torch.equal(noisy, other)  # of the same input


@in_every_module
def test_masks_of_a_part_are_those_of_the_whole(ours: type) -> None:
    layer = ours(5, 7, noise=NOISE, **STACK)
    whole = layer.draw_masks(7, 9, seed=11)
    order = [5, 0, 2**31, 6]
    for samples in (order, torch.tensor(order), torch.tensor(order).numpy()):
        part = layer.draw_masks(4, 9, seed=11, samples=samples)
        for one, other in zip(whole, part, strict=True):
            for slot in ("x", "h", "k_h", "y"):
                rows, given = getattr(one, slot), getattr(other, slot)
                assert torch.equal(given[[0, 1, 3]], rows[[5, 0, 6]])
                assert not torch.equal(given[2], rows[2])
            assert torch.equal(one.U, other.U)


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([1], r"samples has shape \(1,\)"),
        ([0.0, 1.0], "type torch.float32"),
        ([True, False], "type torch.bool"),
        ([-1, 1], "whole numbers in"),
        ([1, 2**32 - 1], "whole numbers in"),
    ],
    ids=str,
)
@in_every_module
def test_wrong_samples(ours: type, samples: Any, why: str) -> None:
    with pytest.raises(LapseError, match=why):
        ours(5, 7, noise=NOISE).draw_masks(2, 9, samples=samples)


@pytest.mark.parametrize("again", ["checkpoint", "reentrant checkpoint"])
@pytest.mark.parametrize("options", [{}, STACK], ids=["one layer", "stack"])
@in_every_module
def test_a_checkpoint_draws_the_same_masks_again(
    ours: type, options: dict[str, Any], again: str
) -> None:
    """Other masks in the pass that is run again would give gradients of another loss."""
    torch.manual_seed(0)
    layer = ours(5, 7, noise=NOISE, **options)
    x = torch.randn(9, 3, 5, requires_grad=True)

    def call(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat(layer(x)))  # a reentrant one doesn't see tensors in tuples in tuples

    torch.manual_seed(3)
    expected = call(x)
    torch.manual_seed(3)
    found = checkpoint(call, x, use_reentrant=again.startswith("reentrant"))
    assert_close(found, expected, 1e-30)
    sides = []
    for results in (expected, found):
        x.grad = None
        layer.zero_grad()
        sum(result.square().sum() for result in results).backward()
        sides.append([x.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    assert_close(sides[1], sides[0], 1e-30)


@in_every_module
def test_masks_that_are_given_need_no_checkpointed_generator(ours: type) -> None:
    """With a generator of its own a layer draws anew in a checkpoint; `masks=` is the way."""
    generator = torch.Generator().manual_seed(7)
    layer = ours(5, 7, noise=NOISE, generator=generator)
    x = torch.randn(9, 3, 5, requires_grad=True)
    masks = layer.draw_masks(3, 9)
    expected = flat(layer(x, masks=masks))
    found = flat(checkpoint(layer, x, masks=masks, use_reentrant=False))
    assert_close(gradients(layer, found, [x]), gradients(layer, expected, [x]), 1e-30)
