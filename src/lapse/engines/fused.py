"""An engine that runs a whole layer at once, forward and backward, on plain arrays.

What such an engine needs from every framework is prepared here: weights, biases, masks and states
as it reads them, and outputs as `cells.unroll` returns them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lapse.core.backend import Memory
from lapse.core.cells import drop
from lapse.core.masks import Coins, Masks, Redrawn
from lapse.engines.arrays import SLOTS, Flags, Gradients, Inputs, Results, writes_outputs
from lapse.engines.interface import Again, Call, Engine, Framework


class Fused(Engine):
    """Subclasses compute the two passes; each framework connects them as its gradients need."""

    @abstractmethod
    def forward(
        self,
        memory: Memory,
        flags: Flags,
        inputs: Inputs,
        scales: Sequence[float],
        into: Results | None = None,
    ) -> Results:
        """Runs a cell over whole sequences.

        Args:
            memory: of the arrays' library.
            scales: the factors of the masks of x, of h and the slots, for masks that are uint8.
            into: the arrays to write to, contiguous in memory; new ones by default.
        """

    @abstractmethod
    def backward(
        self,
        memory: Memory,
        flags: Flags,
        inputs: Inputs,
        scales: Sequence[float],
        results: Results,
        dlast_h: Any,
        dlast_c: Any,
        dy: Any,
        *,
        of_x: bool,
        columns_first: bool,
        into: Gradients | None = None,
    ) -> Gradients:
        """The gradients of the inputs of a layer.

        Args:
            inputs, scales: as for `forward`; the bias is not needed.
            results: what `forward` returned; h, c and saved are needed.
            dlast_h, dlast_c: (batch, units), of the last states; None stands for zeros.
            dy: (timesteps, batch, units), of all outputs, or of all h if these are the outputs.
            of_x: whether to compute the gradient of x.
            columns_first: whether the gradients of the two kernels are (gates*units, features) and
                (gates*units, units), which is PyTorch's layout.
            into: as for `forward`.
        """

    def missing(self, call: Call) -> str | None:
        """A cell or slot that `arrays.Inputs` has no place for, in words; None if all have one."""
        if call.cell not in SLOTS:
            return f"they have no cell {call.cell}"
        known = {"x", "h", "W", "U", *SLOTS[call.cell]}
        slots = [slot for slot, _ in call.plan.slots if slot not in known]
        return f"they have no mask for {slots[0]}" if slots else None

    def unroll(self, call: Call, masks: Masks) -> tuple[Any, tuple]:
        """Computes in float32, with masks that are on the device of x."""
        backend = call.backend
        weights = call.keras_weights()
        kernel, recurrent = (
            drop(backend.floats(weight), mask if _is_number(mask) else backend.floats(mask))
            for weight, mask in zip(weights[:2], (masks.W, masks.U), strict=True)
        )
        features, units = kernel.shape[0], recurrent.shape[0]

        def mask(slot: str, width: int) -> _Mask:
            return _mask(getattr(masks, slot, None), width, recurrent, backend)

        of_x, of_h = mask("x", features), mask("h", units)
        slots = [mask(slot, units).without_gates() for slot in SLOTS[call.cell]]
        every = (of_x, of_h, *slots)
        h0, c0 = (*map(backend.floats, call.initial_state or ()), None, None)[:2]
        inputs = Inputs(
            x=backend.floats(call.x),
            kernel=kernel,
            recurrent_kernel=recurrent,
            bias=_bias(weights.bias, units, backend),
            h0=h0,
            c0=c0,
            running=call.running,
            x_mask=of_x.array,
            h_mask=of_h.array,
            slots=[one.array for one in slots],
        )
        last_h, last_c, h, y = backend.differentiable(
            self.name,
            Flags(call.cell, call.reset_after, call.reverse),
            inputs,
            tuple(one.scale for one in every),
            tuple(one.again for one in every),
        )
        outputs = backend.swapaxes(y if writes_outputs(inputs) else h, 0, 1)
        state = (last_h, last_c) if call.cell == "LSTM" else (last_h,)
        return backend.like(outputs, call.x), tuple(backend.like(part, call.x) for part in state)


def _is_number(mask: Any) -> bool:
    return mask is None or isinstance(mask, float)


def _bias(bias: Any, units: int, backend: Framework) -> Any:
    """One number for each part of z; the two rows of a GRU become z r n, then the recurrent n."""
    if bias is None:
        return None
    bias = backend.floats(bias)
    if len(bias.shape) == 1:
        return bias
    inputs, recurrent = bias[0], bias[1]
    both, last = 2 * units, recurrent[2 * units :]
    return backend.concatenate([inputs[:both] + recurrent[:both], inputs[both:], last], 0)


class _Mask(NamedTuple):
    """A mask as in `Inputs`, the factor of its bytes, and a function that draws it again."""

    array: Any = None
    scale: float = 1.0
    again: Again = None

    def without_gates(self) -> _Mask:
        return self._map(lambda array: array[:, :, 0])

    def _map(self, function: Callable[[Any], Any]) -> _Mask:
        array, scale, again = self
        if array is None:
            return self
        return _Mask(function(array), scale, again and (lambda: function(again())))

    def of_width(self, width: int, backend: Framework) -> _Mask:
        def whole(array: Any) -> Any:
            if array.shape[3] == width:
                return array
            return backend.broadcast(array, (*backend.shape(array)[:3], width))

        return self._map(whole)


def _mask(mask: Any, width: int, like: Any, backend: Framework) -> _Mask:
    if mask is None:
        return _Mask()
    if isinstance(mask, float):
        found = _Mask(backend.zeros((1, 1, 1, 1), like) + mask)
    elif isinstance(mask, Coins):
        found = _Mask(mask.kept, mask.scale)
    elif isinstance(mask, Redrawn):
        found = _Mask(mask.numbers, again=mask.again)
    else:
        found = _Mask(backend.floats(mask))
    return found.of_width(width, backend)
