"""What `lapse.torch.LSTM`, `GRU` and `RNN` have in common: noise, layers, directions, lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lapse.backends.torch import BACKEND, private
from lapse.backends.torch.drawing import new_seed
from lapse.core.drawing import seed_words
from lapse.core.errors import LapseError
from lapse.core.masks import Masks
from lapse.core.plan import Plan
from lapse.core.rules import warn_of_forgetting
from lapse.core.weights import TorchWeights
from lapse.engines import Call, Choice, check_option, choose, engine_for
from lapse.torch.arguments import (
    CallError,
    check_input,
    check_masks_are_tensors,
    checked_lengths,
    checked_samples,
    checked_states,
    running_steps,
)
from lapse.torch.packed_sequence import packed_like, padded
from lapse.torch.sublayers import Sublayer, as_text, sublayers, terms_of_layers

DERIVED = ("_terms", "_between", "_sublayers")  # attributes that are derived from the others


class Recurrent(nn.RNNBase):
    """A subclass names its cell.

    It also gives the package as its `__module__`, so that files of whole models contain the public
    name, which is stable.
    """

    cell: str

    def __init__(
        self,
        mode: str,
        *args: Any,
        recurrent_dropout: float = 0.0,
        noise: Any = None,
        generator: torch.Generator | None = None,
        engine: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(mode, *args, **kwargs)
        self._set_noise(recurrent_dropout, noise, generator, engine)

    def _set_noise(
        self,
        recurrent_dropout: float = 0.0,
        noise: Any = None,
        generator: torch.Generator | None = None,
        engine: str = "auto",
    ) -> None:
        check_option(engine)
        if not (generator is None or isinstance(generator, torch.Generator)):
            raise LapseError(
                f"generator={generator!r} was given; pass a torch.Generator, or leave it out."
            )
        if self.proj_size and self.cell != "LSTM":
            raise LapseError(
                f"proj_size={self.proj_size} was given; only LSTM has a projection of h, "
                f"{type(self).__name__} has not; leave it out."
            )
        self.generator = generator
        self.engine = engine
        self._terms = terms_of_layers(noise, self.num_layers, recurrent_dropout)
        self.noise = as_text(noise, self._terms)
        self.recurrent_dropout = float(recurrent_dropout)
        self._plan()
        for terms in dict.fromkeys(self._terms):
            warn_of_forgetting(terms, self.cell)

    def _plan(self) -> None:
        self._between, self._sublayers = self.dropout, sublayers(self, self._terms)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the derived attributes: files contain no other class of lapse."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name not in DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._terms = terms_of_layers(self.noise, self.num_layers)
        self._plan()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("noise", "recurrent_dropout") and "_sublayers" in vars(self):
            raise LapseError(
                f"{name}={value!r} was set on a {type(self).__name__}, whose noise can't change; "
                "make a new one, and load the weights with load_state_dict."
            )
        super().__setattr__(name, value)

    def _widths(self) -> dict[str, int]:
        """The size of each state, by name."""
        h = self.proj_size or self.hidden_size
        return {"h": h, "c": self.hidden_size} if self.cell == "LSTM" else {"h": h}

    def plans(self) -> list[tuple[Plan, dict[str, int]]]:
        """The plan of each layer and its sizes, for `lapse.explain`."""
        return [(one.plan, one.sizes) for one in self.sublayers()[:: 1 + self.bidirectional]]

    def choices(self, batch: int, timesteps: int, training: bool) -> list[Choice]:
        """The engine of each layer for an input of these sizes, and why it is chosen."""
        like: Tensor = self.weight_ih_l0  # type: ignore[assignment]
        made = []
        for one in self.sublayers()[:: 1 + self.bidirectional]:
            x = like.new_zeros(1, 1, 1).expand(batch, timesteps, one.sizes["features"])
            made.append(choose(self._call(one, x, None, training, None), self.engine))
        return made

    def sublayers(self) -> tuple[Sublayer, ...]:
        """Each layer and direction. As in PyTorch, a change of `dropout` acts at the next call."""
        if self.dropout != self._between:
            self._plan()
        return self._sublayers

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
                by default. A part of a batch gets the same masks as in the whole batch, if it is
                drawn with the same numbers and seed. So several processes can share a batch.

        Returns:
            One tensor for each slot in use: (batch or 1, timesteps or 1, gates or 1, width or 1),
            for W and U (rows or 1, columns or 1) in Keras's layout. Gates are in Keras's order: i f
            g o for LSTM, z r n for GRU. k_c and k_h are 1 where a state is updated. With several
            layers or two directions, a list of masks in the order of `hx`.
        """
        words: Any = new_seed(self.generator) if seed is None else seed_words(seed)
        like: Tensor = self.weight_hh_l0  # type: ignore[assignment]
        if like.dtype in (torch.float16, torch.bfloat16):
            like = like.new_empty(0, dtype=torch.float32)  # masks are drawn and used in it
        rows = None if samples is None else checked_samples(samples, batch)
        sizes: dict[str, Any] = {"batch": batch, "timesteps": timesteps, "samples": rows}
        drawn = (
            BACKEND.draw(one.plan, words, **sizes, **one.sizes, **one.stream)
            for one in self.sublayers()
        )
        found = [BACKEND.numbers(masks, like) for masks in drawn]
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
            hx: the states before the first step, (num_layers * directions, batch, hidden_size), a
                pair (h, c) for LSTM; with proj_size, h has proj_size features. Without the batch
                axis for one sequence. Zeros by default.
            lengths: (batch,) whole numbers in [1, timesteps]. Steps after the end of a sequence are
                padding: their output is 0, and the last state is that of the last real step. A
                PackedSequence has its own lengths.
            masks: from `draw_masks`, used in training and in evaluation. By default, training draws
                new masks, and evaluation uses their expected values.

        Returns:
            The output, shaped like the input with hidden_size (or proj_size) features for each
            direction, and the last states, shaped like `hx`; under autocast in its dtype. For a
            PackedSequence, masks and states are in the order of the batch before it was packed.

        Raises:
            LapseError: for shapes, lengths or masks that don't fit.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise LapseError(
                    "lengths= was given with a PackedSequence, which has its own; leave it out."
                )
            x, lengths = padded(input)
            y, last = self._whole(x, x, hx, lengths, masks, False)
            return packed_like(input, y), last
        if not isinstance(input, Tensor):
            raise CallError(
                f"the input has the type {type(input).__name__}; pass a tensor or a PackedSequence."
            )
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
        every = self.sublayers()
        check_input(x, given, self)
        batch, timesteps = x.shape[:2]
        if lengths is not None:
            lengths = checked_lengths(lengths, batch, timesteps)
        states = None
        if hx is not None:
            states = checked_states(hx, self._widths(), (len(every), batch), single, x.dtype)
        of_each = [None] * len(every) if masks is None else self._given(masks, batch, timesteps)
        if private.autocast() and _autocast_acts_on(x):
            device = x.device.type
            # States accumulate rounding, and half precision saves no time on a CPU.
            with torch.autocast(device, enabled=False):
                states = states and tuple(part.float() for part in states)
                x, last = self._run(x.float(), of_each, states, lengths)
            kind = torch.get_autocast_dtype(device)
            x, last = x.to(kind), tuple(part.to(kind) for part in last)
        else:
            x, last = self._run(x, of_each, states, lengths)
        if single:
            last = tuple(part.squeeze(1) for part in last)
        return x, last if self.cell == "LSTM" else last[0]

    def _run(
        self, x: Tensor, given: Sequence[Masks | None], states: Any, lengths: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output and the last states of all layers, in the layout of `hx`."""
        every, directions = self._sublayers, 1 + self.bidirectional
        running = None if lengths is None else running_steps(lengths, x.shape[1], x.device)
        seed, lasts = self._seed(given), []
        for first in range(0, len(every), directions):
            outputs = []
            for n in range(first, first + directions):
                state = states
                if states is not None and len(every) > 1:
                    state = tuple(part.narrow(0, n, 1) for part in states)
                call = self._call(every[n], x, given[n], seed is not None, state, running, lengths)
                y, last = self._run_one(call, every[n], seed)
                outputs.append(y)
                lasts.append(last)
            x = _joined(outputs) if self.bidirectional else outputs[0]
        if running is not None:
            x = _without_padding(x, running)
        if len(lasts) == 1:
            return x, lasts[0]
        return x, tuple(map(torch.cat, zip(*lasts, strict=True)))

    def _seed(self, given: Sequence[Masks | None]) -> Tensor | None:
        """The seed of a call that draws masks; None if it draws no masks."""
        if given[0] is not None or not self.training:
            return None
        if not any(one.plan.slots for one in self._sublayers):
            return None
        if private.to_onnx():
            raise LapseError(
                "the model is in training mode, and ONNX can't draw lapse's masks; call "
                "model.eval() before torch.onnx.export."
            )
        return new_seed(self.generator)

    def _call(
        self,
        one: Sublayer,
        x: Tensor,
        masks: Masks | None,
        training: bool,
        state: Any,
        running: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Call:
        # Looked up by name at each call, so that parametrizations and functional_call work.
        own = self._parameters
        weights = TorchWeights(
            *[own[n] if n in own else n and getattr(self, n) for n in one.weights]
        )
        if weights.weight_ih.dtype != x.dtype:  # possible under autocast
            weights = TorchWeights(*(w if w is None else w.to(x.dtype) for w in weights))
        return Call(
            BACKEND,
            self.cell,
            x,
            weights,
            one.plan,
            masks,
            training,
            state,
            running,
            lengths,
            reverse=one.direction == 1,
            activation=self._activation,
            exporting=private.to_onnx(),
            leading_axis=True,
        )

    def _run_one(self, call: Call, one: Sublayer, seed: Tensor | None) -> tuple[Tensor, tuple]:
        engine = engine_for(call, self.engine)
        if call.masks is not None:
            masks = call.masks
        elif seed is not None:
            batch, timesteps = call.x.shape[:2]
            sizes = {"batch": batch, "timesteps": timesteps, **one.sizes, **one.stream}
            masks = engine.draw(call, seed, **sizes)
        else:
            masks = call.plan.expected
        return engine.run(call, masks)

    def _given(self, masks: Any, batch: int, timesteps: int) -> Sequence[Masks]:
        """The masks that a user passes, one for each layer and direction, checked."""
        single = isinstance(masks, Masks) or not isinstance(masks, (list, tuple))
        each: Sequence[Masks] = (masks,) if single else masks
        if wrong := [one for one in each if not isinstance(one, Masks)]:
            raise LapseError(
                f"masks= has the type {type(wrong[0]).__name__}, which is not lapse.Masks; pass "
                "what draw_masks returns."
            )
        if len(each) != len(self._sublayers):
            raise LapseError(
                f"masks= has length {len(each)}; {type(self).__name__} needs masks for each layer "
                f"and direction, {len(self._sublayers)} in all, as draw_masks returns them."
            )
        for of_one, one in zip(each, self._sublayers, strict=True):
            one.check(of_one, batch, timesteps)
            check_masks_are_tensors(of_one)
        return each

    _activation: Callable | None = None  # None stands for tanh


def _autocast_acts_on(x: Tensor) -> bool:
    device = x.device.type
    return device != "meta" and torch.is_autocast_enabled(device) and x.dtype != torch.float64


# In memory, PyTorch's outputs have time first, whatever the order of their axes.


def _joined(outputs: list[Tensor]) -> Tensor:
    return torch.cat([y.swapaxes(0, 1) for y in outputs], -1).swapaxes(0, 1)


def _without_padding(y: Tensor, running: Tensor) -> Tensor:
    """Outputs with 0 in padding. `torch.where` gives its result the strides of the condition."""
    kept = running.t().contiguous()[..., None]
    return torch.where(kept, y.swapaxes(0, 1), 0).swapaxes(0, 1)
