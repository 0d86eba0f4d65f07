"""The modules under torch.func: many models at once, gradients of samples, derivatives forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

from lapse.core.errors import LapseError
from torch_support import in_every_module, one_thread  # noqa: F401  for every test here

NOISE = "h:.4@BFG s:.1@BTF>prev U:.2@IO"
OPTIONS: list[dict[str, Any]] = [{}, {"num_layers": 2, "bidirectional": True}]
in_every_stack = pytest.mark.parametrize("options", OPTIONS, ids=["one layer", "stack"])

# PyTorch's own, when it first derives forward.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def made(ours: type, options: dict[str, Any], **others: Any) -> Any:
    return ours(5, 7, noise=NOISE, **options, **others)


@in_every_stack
@in_every_module
def test_an_ensemble_is_its_members(ours: type, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    members, x = [made(ours, options).eval() for _ in range(3)], torch.randn(6, 2, 5)
    weights, buffers = stack_module_state(members)

    def one(weights: Any, buffers: Any) -> Tensor:
        return functional_call(members[0], (weights, buffers), (x,))[0]

    torch.testing.assert_close(
        vmap(one)(weights, buffers), torch.stack([member(x)[0] for member in members])
    )


@pytest.mark.parametrize("randomness", ["same", "different"])
@in_every_module
def test_an_ensemble_in_training_draws_as_vmap_says(ours: type, randomness: str) -> None:
    torch.manual_seed(0)
    member, x = made(ours, {}), torch.randn(6, 2, 5)
    weights, _ = stack_module_state([member] * 3)
    outputs = vmap(lambda w: functional_call(member, w, (x,))[0], randomness=randomness)(weights)
    assert torch.equal(outputs[0], outputs[1]) == (randomness == "same")
    assert not torch.equal(outputs[0], made(ours, {}).eval()(x)[0])


@in_every_stack
@in_every_module
def test_gradients_of_each_sample(ours: type, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer, x = made(ours, options).eval(), torch.randn(3, 6, 5)
    weights = {name: value.detach() for name, value in layer.named_parameters()}

    def loss(weights: Any, x: Tensor) -> Tensor:
        return functional_call(layer, weights, (x,))[0].square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(weights, x)
    for n, one in enumerate(x):
        wanted = torch.autograd.grad(layer(one)[0].square().sum(), list(layer.parameters()))
        for name, gradient in zip(weights, wanted, strict=True):
            torch.testing.assert_close(found[name][n], gradient)


@in_every_stack
@in_every_module
def test_jacobians_forward_and_backward(ours: type, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer, x = made(ours, options).eval(), torch.randn(4, 2, 5)
    wanted = torch.autograd.functional.jacobian(lambda x: layer(x)[0], x)
    assert wanted.abs().max() > 0.01
    for jacobian in (jacfwd, jacrev):
        torch.testing.assert_close(jacobian(lambda x: layer(x)[0])(x), wanted)
    along = torch.randn_like(x)
    _, found = jvp(lambda x: layer(x)[0], (x,), (along,))
    torch.testing.assert_close(found, torch.tensordot(wanted, along, 3))


@in_every_stack
@in_every_module
def test_many_gradients_of_one_call(ours: type, options: dict[str, Any]) -> None:
    """vmap over backward alone, of a call that the kernel ran."""
    torch.manual_seed(0)
    layer, x = made(ours, options, engine="cpu"), torch.randn(6, 2, 5, requires_grad=True)
    y = layer(x)[0]
    each = torch.randn(4, *y.shape)

    def back(along: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, along, retain_graph=True)[0]

    assert torch.equal(vmap(back)(each), torch.stack([back(along) for along in each]))


@in_every_stack
@in_every_module
def test_gradients_that_are_asked_for_when_the_transform_is_over(
    ours: type, options: dict[str, Any]
) -> None:
    """Of a call that the kernel ran, and the gradients of these gradients."""
    torch.manual_seed(0)
    layer, x = made(ours, options, engine="cpu"), torch.randn(4, 2, 5)
    masks, along = layer.draw_masks(2, 4), torch.randn(4, 2, 7 * (1 + layer.bidirectional))

    def call(x: Tensor) -> Tensor:
        return layer(x, masks=masks)[0]

    y, back = vjp(call, x)
    leaf = x.clone().requires_grad_()
    wanted = torch.autograd.grad(call(leaf), leaf, along, create_graph=True)
    torch.testing.assert_close(y, call(x))
    torch.testing.assert_close(back(along), wanted)
    (again,) = torch.autograd.grad(wanted[0].square().sum(), leaf)
    torch.testing.assert_close(grad(lambda x: vjp(call, x)[1](along)[0].square().sum())(x), again)


@in_every_module
def test_the_kernel_asked_for_by_force_says_why_not(ours: type) -> None:
    layer, x = made(ours, {}, engine="cpu").eval(), torch.randn(6, 2, 5)
    with pytest.raises(LapseError, match="can't run here: vmap is not supported"):
        vmap(lambda x: layer(x)[0])(torch.stack([x, x]))
    with pytest.raises(LapseError, match="derivatives in forward mode"):
        jvp(lambda x: layer(x)[0], (x,), (x,))


@in_every_module
def test_an_ensemble_compiles(ours: type) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    layer, xs = made(ours, {}).eval(), torch.randn(3, 6, 2, 5)

    def each(xs: Tensor) -> Tensor:
        return vmap(lambda x: layer(x)[0])(xs)

    found = torch.compile(each, fullgraph=True, backend="aot_eager")(xs)
    torch.testing.assert_close(found, torch.stack([layer(x)[0] for x in xs]))
    torch.compiler.reset()
