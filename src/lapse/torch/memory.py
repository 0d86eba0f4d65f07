"""PyTorch's tensors as the kernels take them, and its threads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from lapse.kernels.memory import Memory


def constant(function: Callable) -> Callable:
    """Marks what torch.compile is to call, and not to look into.

    `torch.compiler.assume_constant_result` does the same, after a second in which it imports all of
    the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def direct(*tensors: Tensor | None) -> bool:
    """Whether kernels may be called past PyTorch's dispatcher.

    They may not where a graph is made of the operators, something else looks at them, or some of
    the tensors have no memory of their own.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or any(map(_has_no_memory, tensors))
    )


def _has_no_memory(tensor: Tensor | None) -> bool:
    """Of its own: a subclass, or what `vmap` and `is_grads_batched=True` make of many tensors."""
    if tensor is None:
        return False
    own = type(tensor) is Tensor or type(tensor) is torch.nn.Parameter
    functorch = torch._C._functorch
    batched = functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor)
    return not own or batched


def pool() -> tuple[int, int]:
    """PyTorch's threads: how many, and the address of the function that runs them."""
    return torch.get_num_threads(), _parallel_for()


@cache
def _parallel_for() -> int:
    """From PyTorch's stable C interface."""
    library = ctypes.CDLL(torch._C.__file__)
    return ctypes.cast(library.torch_parallel_for, ctypes.c_void_p).value or 0


MEMORY = Memory(
    float32=torch.float32,
    uint8=torch.uint8,
    bool=torch.bool,
    empty=Tensor.new_empty,
    address=Tensor.data_ptr,
    strides=Tensor.stride,
    dense=Tensor.contiguous,
    pool=pool,
)
