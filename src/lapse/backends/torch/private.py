"""Everything that lapse uses of PyTorch's private API; a new version of PyTorch may break it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.modules.dropout import _DropoutNd

DropoutModule = _DropoutNd  # the base of nn.Dropout and its relatives

# PyTorch's own recurrent functions by cell and activation, None for tanh: over sequences, and for
# one step, which takes a third of the time of a sequence of length 1 (LSTM).
SEQUENCES: dict[tuple[str, Callable | None], Callable] = {
    ("LSTM", None): torch._VF.lstm,
    ("GRU", None): torch._VF.gru,
    ("SimpleRNN", None): torch._VF.rnn_tanh,
    ("SimpleRNN", torch.relu): torch._VF.rnn_relu,
}
STEPS: dict[tuple[str, Callable | None], Callable] = {
    ("LSTM", None): torch._VF.lstm_cell,
    ("GRU", None): torch._VF.gru_cell,
    ("SimpleRNN", None): torch._VF.rnn_tanh_cell,
    ("SimpleRNN", torch.relu): torch._VF.rnn_relu_cell,
}


def constant(function: Callable) -> Callable:
    """Marks a function that torch.compile calls and does not trace.

    `torch.compiler.assume_constant_result` does the same, but imports the whole compiler, which
    takes a second.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def in_graph() -> bool:
    """Whether operations are traced now, to run later."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


# If torch.compile traced this function, it would take it for always False.
@constant
def to_onnx() -> bool:
    """Whether `torch.onnx.export` traces the call, with or without dynamo."""
    if not (torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None):
        return False  # the next check takes longer
    return torch.onnx.is_in_onnx_export()


def direct(*tensors: Tensor | None) -> bool:
    """Whether kernels may be called past PyTorch's dispatcher.

    They may not if a graph is traced, if a dispatch mode is active, or if some of the tensors have
    no memory of their own.
    """
    return not (
        in_graph() or torch._C._len_torch_dispatch_stack() or any(map(_has_no_memory, tensors))
    )


def _has_no_memory(tensor: Tensor | None) -> bool:
    """Whether it is a subclass, or a batch of tensors from `vmap` or `is_grads_batched=True`."""
    if tensor is None:
        return False
    own = type(tensor) is Tensor or type(tensor) is torch.nn.Parameter
    functorch = torch._C._functorch
    batched = functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor)
    return not own or batched


def mapped() -> bool:
    """Whether one of the active transforms of torch.func is a vmap, or may be one."""
    if not torch._C._are_functorch_transforms_active():
        return False
    if torch.compiler.is_compiling():  # there only the presence of transforms is known
        return True
    functorch = torch._C._functorch
    levels = functorch.get_interpreter_stack() or []
    return any(level.key() == functorch.TransformType.Vmap for level in levels)


def forward_mode() -> bool:
    """Whether derivatives are computed in forward mode."""
    return forward_ad._current_level >= 0


def autocast() -> bool:
    """Whether autocast is on for some device."""
    return bool(torch._C._is_any_autocast_enabled())


@cache
def parallel_for() -> int:
    """The address of the function that runs PyTorch's threads, in its stable C interface."""
    library = ctypes.CDLL(torch._C.__file__)
    return ctypes.cast(library.torch_parallel_for, ctypes.c_void_p).value or 0


def scan(step: Callable, carry: tuple, inputs: dict[str, Any]) -> tuple[tuple, Any]:
    """A loop over time as one operator, which must not get or return the same tensor twice."""
    from torch._higher_order_ops.scan import scan  # imports the compiler: takes a second

    def apart(parts: tuple) -> tuple:
        return tuple(part.clone() for part in parts)

    def once(carry: tuple, now: dict) -> tuple:
        new = step(carry, now)
        return apart(new), new[0].clone()

    last, outputs = scan(once, apart(carry), inputs)
    return last, outputs
