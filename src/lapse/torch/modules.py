"""`nn.LSTM`, `nn.GRU` and `nn.RNN` with `noise=`: the same signature, `state_dict` and numbers.

They run on the C++ kernels where these can (see `fused.py`), else on the plain loop of `cells.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lapse.core import cells, masks
from lapse.core.errors import LapseError
from lapse.core.plan import Masks, Plan
from lapse.core.weights import from_torch
from lapse.kernels import check_kernel, choose
from lapse.torch import exporting, fused
from lapse.torch.arguments import (
    check_input,
    check_masks_are_tensors,
    checked_lengths,
    checked_samples,
    checked_states,
    running_steps,
)
from lapse.torch.drawing import draw_seed
from lapse.torch.memory import constant
from lapse.torch.packed import packed_like, padded
from lapse.torch.plain import LIBRARY, floats
from lapse.torch.stack import One, as_text, stack

_DERIVED = ("_between", "_ones")


# What torch.compile can't look into, for it may warn, and needn't: strings go in and one comes out.
@constant
def _chosen(why_not: str | None, kernel: str, expected: bool) -> str:
    return choose(why_not, kernel, expected=expected)


class _Recurrent(nn.RNNBase):
    """What the three modules share; subclasses say which cell they are.

    They also give the package as their `__module__`, so that files of whole models name what is
    public and stays.
    """

    cell: str

    def __init__(
        self,
        mode: str,
        *args: Any,
        recurrent_dropout: float = 0.0,
        noise: Any = None,
        generator: torch.Generator | None = None,
        kernel: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(mode, *args, **kwargs)
        self._set_noise(recurrent_dropout, noise, generator, kernel)

    def _set_noise(
        self,
        recurrent_dropout: float = 0.0,
        noise: Any = None,
        generator: torch.Generator | None = None,
        kernel: str = "auto",
    ) -> None:
        check_kernel(kernel)
        if self.proj_size and self.cell != "LSTM":
            raise LapseError(
                f"proj_size={self.proj_size} was given; {type(self).__name__} has no projection of "
                "h, only LSTM; leave it out."
            )
        self.generator = generator
        self.kernel = kernel
        self.noise = as_text(noise, self.num_layers, recurrent_dropout)
        self.recurrent_dropout = float(recurrent_dropout)
        self._between, self._ones = self.dropout, stack(self, quiet=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without what follows from the rest: files hold no class of lapse's but the module's."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name not in _DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._between, self._ones = self.dropout, stack(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("noise", "recurrent_dropout") and "_ones" in vars(self):
            raise LapseError(
                f"{name}={value!r} was set on a {type(self).__name__} that has its noise already; "
                "make a new one, and load_state_dict this one's weights."
            )
        super().__setattr__(name, value)

    def _widths(self) -> dict[str, int]:
        """How many numbers each state has."""
        h = self.proj_size or self.hidden_size
        return {"h": h, "c": self.hidden_size} if self.cell == "LSTM" else {"h": h}

    def plans(self) -> list[tuple[Plan, dict[str, int]]]:
        """The plan of each layer, with its sizes, as `lapse.explain` needs them."""
        firsts = self._each()[:: 1 + self.bidirectional]
        return [(one.noise.plan, one.sizes) for one in firsts]

    def _each(self) -> tuple[One, ...]:
        """Each layer and direction. `dropout` may have changed: PyTorch reads it at each call."""
        if self.dropout != self._between:
            self._between, self._ones = self.dropout, stack(self)
        return self._ones

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", noise={self.noise!r}" if self.noise else "")

    def draw_masks(
        self,
        batch: int,
        timesteps: int,
        seed: int | None = None,
        *,
        samples: Sequence[int] | Tensor | None = None,
    ) -> Masks | list[Masks]:
        """Draws the masks of one training call.

        Args:
            batch, timesteps: the sizes of the input.
            seed: a whole number in [0, 2**64); by default one from `generator`, or from PyTorch's
                global generator, which `torch.manual_seed` sets.
            samples: (batch,) whole numbers in [0, 2**32 - 1) that identify the sequences; 0, 1, ...
                by default. A part of a batch drawn with its own numbers gets the masks it has in
                the whole: so processes that share a batch and a seed draw one batch's masks.

        Returns:
            One tensor for each slot in use: (batch or 1, timesteps or 1, gates or 1, width or 1),
            for W and U (rows or 1, columns or 1) in Keras's layout. With several layers or two
            directions a list of such, in the order of `hx`.
        """
        words = None if seed is None else torch.tensor(masks.seed_words(seed))
        words = draw_seed(self.generator) if words is None else words
        like: Tensor = self.weight_hh_l0  # type: ignore[assignment]
        if like.dtype in (torch.float16, torch.bfloat16):
            like = like.new_empty(0, dtype=torch.float32)  # in which they are drawn and used
        rows = None if samples is None else checked_samples(samples, batch)
        drawn = [one.draw(batch, timesteps, words, rows) for one in self._each()]
        found = [floats(of_one, like) for of_one in drawn]
        return found if len(found) > 1 else found[0]

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        masks: Masks | list[Masks] | None = None,
    ) -> tuple[Any, Any]:
        """Runs the layers.

        Args:
            input: (timesteps, batch, input_size), with batch_first (batch, timesteps, input_size),
                (timesteps, input_size) for one sequence, or a PackedSequence.
            hx: the states before the first steps, (num_layers * directions, batch, hidden_size), a
                pair (h, c) for LSTM, whose h has proj_size numbers where there is one; without the
                batch axis for one sequence. Zeros by default.
            lengths: (batch,) whole numbers in [1, timesteps]; steps past a sequence's length are
                padding: their output is 0, and the last state is the one at the length. A
                PackedSequence has its own.
            masks: from `draw_masks`, used in training and evaluation alike. By default fresh ones
                in training, and in evaluation what they average to.

        Returns:
            The output, shaped like the input with hidden_size (or proj_size) features for each
            direction, and the last states, shaped like `hx`; under autocast in its dtype. Masks,
            states and what is drawn for a PackedSequence follow its batch as it was before it was
            packed.

        Raises:
            LapseError: for shapes, lengths or masks that don't fit.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise LapseError("lengths= was given beside a PackedSequence, which has its own.")
            x, lengths = padded(input)
            y, last = self._whole(x, x, hx, lengths, masks, False)
            return packed_like(input, y), last
        single = input.dim() == 2
        x = input.unsqueeze(0) if single else input
        x = x if self.batch_first or x.dim() != 3 or single else x.swapaxes(0, 1)
        y, last = self._whole(x, input, hx, lengths, masks, single)
        if single:
            return y.squeeze(0), last
        return y if self.batch_first else y.swapaxes(0, 1), last

    def _whole(
        self, x: Tensor, given: Tensor, hx: Any, lengths: Any, masks: Any, single: bool
    ) -> tuple[Tensor, Any]:
        """All layers, with the batch first."""
        ones = self._each()
        check_input(x, given, self)
        batch, timesteps = x.shape[:2]
        if lengths is not None:
            lengths = checked_lengths(lengths, batch, timesteps)
        states = checked_states(hx, self._widths(), (len(ones), batch), single, x.dtype)
        drawn = self._masks(ones, masks, batch, timesteps)
        running = None if lengths is None else running_steps(lengths, timesteps, x.device)
        device = x.device.type
        autocast = device != "meta" and torch.is_autocast_enabled(device)
        if autocast and x.dtype != torch.float64:
            # States add up, and half precision in matrix products saves no time on a CPU.
            with torch.autocast(device, enabled=False):
                states = states and tuple(part.float() for part in states)
                x, last = self._stack(x.float(), drawn, states, running)
            kind = torch.get_autocast_dtype(device)
            x, last = x.to(kind), tuple(part.to(kind) for part in last)
        else:
            x, last = self._stack(x, drawn, states, running)
        if single:
            last = tuple(part.squeeze(1) for part in last)
        return x, last if self.cell == "LSTM" else last[0]

    def _stack(
        self, x: Tensor, drawn: Sequence[Masks], states: Any, running: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output and the last states of all layers, each state as `hx` has it."""
        ones, directions = self._ones, 1 + self.bidirectional
        lasts = []
        for first in range(0, len(ones), directions):
            outputs = []
            for n in range(first, first + directions):
                state = None if states is None else tuple(part[n] for part in states)
                y, last = self._run(ones[n], x, drawn[n], state, running)
                outputs.append(y)
                lasts.append(last)
            x = _joined(outputs) if self.bidirectional else outputs[0]
        if running is not None:
            x = _without_padding(x, running)
        return x, tuple(torch.stack(parts) for parts in zip(*lasts, strict=True))

    def _masks(
        self, ones: tuple[One, ...], given: Any, batch: int, timesteps: int
    ) -> Sequence[Masks]:
        if given is None:
            if not (self.training and any(one.noise.plan.slots for one in ones)):
                return [one.noise.expected for one in ones]
            exporting.refuse_drawing()
            seed = draw_seed(self.generator)
            return [one.draw(batch, timesteps, seed) for one in ones]
        each: Sequence[Masks] = given if isinstance(given, (list, tuple)) else (given,)
        each = (given,) if isinstance(given, Masks) else each
        if wrong := [one for one in each if not isinstance(one, Masks)]:
            raise LapseError(
                f"masks= holds {type(wrong[0]).__name__}, which is no Masks; give what draw_masks "
                "gives."
            )
        if len(each) != len(ones):
            raise LapseError(
                f"masks= has masks for {len(each)} layers and directions; {type(self).__name__} "
                f"needs {len(ones)}, as draw_masks gives them."
            )
        for of_one, one in zip(each, ones, strict=True):
            one.check(of_one, batch, timesteps)
            check_masks_are_tensors(of_one)
        return each

    def obstacle(self) -> str | None:
        """What keeps the layer from the C++ kernel, in words; None if nothing."""
        like: Tensor = self.weight_ih_l0  # type: ignore[assignment]
        plain = self._library() is LIBRARY
        return fused.obstacle(like, self._weights(self._ones[0]), Masks(), None, activations=plain)

    def _run(
        self, one: One, x: Tensor, masks: Masks, state: Any, running: Any
    ) -> tuple[Tensor, tuple]:
        weights, library = self._weights(one), self._library()
        if weights.kernel.dtype != x.dtype:  # as it may be under autocast
            weights = cells.Weights(*(w if w is None else w.to(x.dtype) for w in weights))
        plain = library is LIBRARY
        call: dict[str, Any] = {
            "initial_state": state,
            "running": running,
            "reverse": bool(one.direction),
        }
        unasked = exporting.obstacle()
        why_not = unasked or fused.obstacle(x, weights, masks, state, activations=plain)
        if _chosen(why_not, self.kernel, unasked is not None) == "cpu":
            return fused.unroll(self.cell, x, weights, masks, **call)
        if exporting.exporting():
            return exporting.unroll(
                self.cell, x, weights, floats(masks, x), **call, library=library
            )
        return cells.unroll(self.cell, x, weights, floats(masks, x), **call, library=library)

    def _library(self) -> cells.Library:
        return LIBRARY

    def _weights(self, one: One) -> cells.Weights:
        def found(name: str, there: bool = True) -> Tensor | None:
            # By name at each call, so that parametrizations and functional_call hold.
            return getattr(self, f"{name}_{one.name}") if there else None

        return from_torch(
            self.cell,
            found("weight_ih"),
            found("weight_hh"),
            found("bias_ih", self.bias),
            found("bias_hh", self.bias),
            found("weight_hr", bool(self.proj_size)),
            concatenate=torch.cat,
        )


# PyTorch's outputs lie in memory with time first, whatever the order of their axes.


def _joined(outputs: list[Tensor]) -> Tensor:
    return torch.cat([y.swapaxes(0, 1) for y in outputs], -1).swapaxes(0, 1)


def _without_padding(y: Tensor, running: Tensor) -> Tensor:
    """0 where a step is padding; `torch.where` gives its result the strides of the condition."""
    kept = running.t().contiguous()[..., None]
    return torch.where(kept, y.swapaxes(0, 1), 0).swapaxes(0, 1)


class LSTM(_Recurrent):
    """`torch.nn.LSTM` with noise inside.

    Takes every argument of `nn.LSTM`, and by keyword those below. Noise acts in each layer and
    direction, with masks of its own; `dropout=` acts between layers as in PyTorch. With `proj_size`
    it runs on the plain loop.

    Args:
        recurrent_dropout: rate in [0, 1) of dropping what each gate reads of h, one mask per
            sequence and gate, as in Keras.
        noise: a form (`lapse.Zoneout()`), terms as text ("x:.4@BF U:.5@IO"), or a list of these;
            for all layers, or a dictionary from their numbers, the first being 0, to noise.
        generator: where the seed of each training call comes from; PyTorch's global one if None,
            which is the only one that `torch.utils.checkpoint` sets back to draw the same again
            (with one of its own, give it `masks=`).
        kernel: "auto", or by force "cpu", the C++ kernel, or "reference", the plain loop. Beside it
            stands the environment variable LAPSE_KERNEL, for layers that say "auto".

    Raises:
        LapseError: for noise that this cell can't have; at a call, for a kernel that can't run it.
    """

    __module__ = "lapse.torch"
    cell = "LSTM"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(_Recurrent):
    """`torch.nn.GRU` with noise inside; the extra arguments are those of `LSTM`."""

    __module__ = "lapse.torch"
    cell = "GRU"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("GRU", *args, **kwargs)


class RNN(_Recurrent):
    """`torch.nn.RNN` with noise inside; the extra arguments are those of `LSTM`.

    As in PyTorch, `nonlinearity` ("tanh" or "relu") comes fourth or by keyword.
    """

    __module__ = "lapse.torch"
    cell = "SimpleRNN"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise LapseError(
                f"the nonlinearity {nonlinearity!r} is unknown; write 'tanh' or 'relu'."
            )
        mode = "RNN_TANH" if nonlinearity == "tanh" else "RNN_RELU"
        super().__init__(mode, input_size, hidden_size, num_layers, *args, **kwargs)
        self.nonlinearity = nonlinearity

    def _library(self) -> cells.Library:
        return LIBRARY if self.nonlinearity == "tanh" else LIBRARY._replace(tanh=torch.relu)
