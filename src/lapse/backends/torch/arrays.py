"""PyTorch's tensors: words in int64, whose products wrap around, with the right low bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lapse.backends.torch import private
from lapse.core.backend import Backend, Shape
from lapse.core.philox import WORD


class TorchArrays(Backend):
    """Operations in PyTorch, the memory of its tensors, and its threads."""

    name = "torch"

    def word(self, value: Any) -> Any:
        return torch.as_tensor(value).to(torch.int64)

    def multiply(self, word: Any, constant: int) -> tuple[Any, Any]:
        product = word * constant
        return product >> 32 & WORD, product & WORD

    def add(self, word: Any, constant: int) -> Any:
        return word + constant & WORD

    def quotient(self, words: Any, divisor: int) -> Any:
        return words // divisor

    def at_least(self, words: Any, threshold: int) -> Any:
        return words >= threshold

    def range(self, count: Any) -> Any:
        return torch.arange(count)

    def running_max(self, words: Any, axis: int, window: int) -> Any:
        return words.cummax(axis).values

    def floats(self, values: Any) -> Any:
        return values.float()

    tanh, sigmoid = staticmethod(torch.tanh), staticmethod(torch.sigmoid)
    log, cos, sqrt = staticmethod(torch.log), staticmethod(torch.cos), staticmethod(torch.sqrt)
    concatenate, stack = staticmethod(torch.cat), staticmethod(torch.stack)
    split, swapaxes = staticmethod(torch.chunk), staticmethod(torch.swapaxes)
    where = staticmethod(torch.where)

    def flip(self, array: Any, axis: int) -> Any:
        return array.flip(axis)

    def zeros(self, shape: Any, like: Any) -> Any:
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def scan(self, step: Callable, carry: tuple, inputs: dict[str, Any]) -> tuple[tuple, Any]:
        steps = next(iter(inputs.values())).shape[0]
        if torch.compiler.is_exporting() and steps != 1:  # for any number of steps
            return private.scan(step, carry, inputs)
        return super().scan(step, carry, inputs)

    float32, uint8, bool = torch.float32, torch.uint8, torch.bool
    address, strides = staticmethod(Tensor.data_ptr), staticmethod(Tensor.stride)
    dense = staticmethod(Tensor.contiguous)

    def empty(self, like: Any, shape: Shape) -> Any:
        return Tensor.new_empty(like, shape)

    def threads(self) -> tuple[int, int]:
        return torch.get_num_threads(), private.parallel_for()
