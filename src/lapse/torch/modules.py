"""`nn.LSTM`, `nn.GRU` and `nn.RNN` with `noise=`: the same signature, `state_dict` and numbers.

They run on the C++ kernels where these can (see `fused.py`), else on the plain loop of `cells.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lapse import cells, masks
from lapse.errors import LapseError
from lapse.forms import Dropout, KerasDropout
from lapse.kernels import check_kernel, choose
from lapse.noise import Term, collect
from lapse.plan import Masks, Plan, check_masks, plan
from lapse.torch import exporting, fused
from lapse.torch.drawing import Scales, draw, draw_seed, scales
from lapse.torch.packed import packed_like, padded
from lapse.torch.plain import LIBRARY, floats
from lapse.weights import from_torch

choose = exporting.known(choose)  # it may warn, which torch.compile can't write down


class _Noise(NamedTuple):
    """What follows from terms; made once, for torch.compile can't trace how."""

    text: str
    plan: Plan
    expected: Masks
    scales: Scales


class _One(NamedTuple):
    """One layer in one direction."""

    layer: int
    direction: int
    features: int
    noise: _Noise

    @property
    def name(self) -> str:
        """What the names of its weights end with."""
        return f"l{self.layer}{'_reverse' if self.direction else ''}"


class _Recurrent(nn.RNNBase):
    """What the three modules share; subclasses say which cell they are."""

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
        if self.proj_size:
            raise LapseError(
                f"proj_size={self.proj_size} was given; {type(self).__name__} has no projection of "
                "h so far; leave it out."
            )
        self.recurrent_dropout = recurrent_dropout
        self.generator = generator
        self.kernel = kernel
        terms = collect([KerasDropout(recurrent_dropout=recurrent_dropout), noise])
        self.noise = " ".join(map(str, terms))
        self._prepare()
        self.plan = self._ones[0].noise.plan

    def _prepare(self) -> None:
        """Makes what each layer and direction has, from `noise` and `dropout` as they are now."""
        terms = collect(self.noise)
        first = later = self._of(terms)
        if self.num_layers > 1 and self.dropout:
            later = self._of(collect([*terms, Dropout(self.dropout)]))
        directions = 1 + self.bidirectional
        self._between = self.dropout
        self._ones = tuple(
            _One(layer, direction, self.hidden_size * directions, later)
            if layer
            else _One(layer, direction, self.input_size, first)
            for layer in range(self.num_layers)
            for direction in range(directions)
        )

    def _of(self, terms: tuple[Term, ...]) -> _Noise:
        made = plan(terms, self.cell)
        return _Noise(" ".join(map(str, terms)), made, masks.expected(made), scales(made))

    def _each(self) -> tuple[_One, ...]:
        """Each layer and direction. `dropout` may have changed: PyTorch reads it at each call."""
        if self.dropout != self._between:
            self._prepare()
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
        rows = None if samples is None else _numbers(samples, batch)
        drawn = [
            floats(self._draw(one, batch, timesteps, words, rows), like) for one in self._each()
        ]
        return drawn if len(drawn) > 1 else drawn[0]

    def _draw(
        self, one: _One, batch: int, timesteps: int, seed: Tensor, samples: Any = None
    ) -> Masks:
        return draw(
            one.noise.text,
            self.cell,
            seed,
            one.noise.scales,
            batch=batch,
            timesteps=timesteps,
            features=one.features,
            units=self.hidden_size,
            layer=one.layer,
            direction=one.direction,
            samples=samples,
        )

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
                pair (h, c) for LSTM; without the batch axis for one sequence. Zeros by default.
            lengths: (batch,) whole numbers in [1, timesteps]; steps past a sequence's length are
                padding: their output is 0, and the last state is the one at the length. A
                PackedSequence has its own.
            masks: from `draw_masks`, used in training and evaluation alike. By default fresh ones
                in training, and in evaluation what they average to.

        Returns:
            The output, shaped like the input with hidden_size features for each direction, and the
            last states, shaped like `hx`. Masks, states and what is drawn for a PackedSequence
            follow its batch as it was before it was packed.

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
        ones, directions = self._each(), 1 + self.bidirectional
        self._check(x, given, lengths)
        batch, timesteps = x.shape[:2]
        states = self._states(hx, batch, single)
        drawn = self._masks(ones, masks, batch, timesteps)
        running = None if lengths is None else _running(lengths, timesteps, x.device)
        lasts = []
        for first in range(0, len(ones), directions):
            outputs = []
            for n in range(first, first + directions):
                state = None if states is None else tuple(part[n] for part in states)
                y, last = self._run(ones[n], x, drawn[n], state, running)
                outputs.append(y)
                lasts.append(last)
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
        if running is not None:
            x = torch.where(running[..., None], x, 0)
        last = tuple(torch.stack(parts) for parts in zip(*lasts, strict=True))
        if single:
            last = tuple(part.squeeze(1) for part in last)
        return x, last if self.cell == "LSTM" else last[0]

    def _masks(
        self, ones: tuple[_One, ...], given: Any, batch: int, timesteps: int
    ) -> Sequence[Masks]:
        if given is None:
            if not (self.training and any(one.noise.plan.slots for one in ones)):
                return [one.noise.expected for one in ones]
            exporting.refuse_drawing()
            seed = draw_seed(self.generator)
            return [self._draw(one, batch, timesteps, seed) for one in ones]
        each: Sequence[Masks] = (given,) if isinstance(given, Masks) else tuple(given)
        if len(each) != len(ones):
            raise LapseError(
                f"masks= has masks for {len(each)} layers and directions; {type(self).__name__} "
                f"needs {len(ones)}, as draw_masks gives them."
            )
        sizes = {"batch": batch, "timesteps": timesteps, "units": self.hidden_size}
        for masks_of_one, one in zip(each, ones, strict=True):
            check_masks(masks_of_one, one.noise.plan, **sizes, features=one.features)
        return each

    def runs(self) -> tuple[dict[str, int], str | None]:
        """For `lapse.explain`: sizes, and what keeps the layer from the C++ kernel."""
        like: Tensor = self.weight_ih_l0  # type: ignore[assignment]
        plain = self._library() is LIBRARY
        why_not = fused.obstacle(
            like, self._weights(self._ones[0]), Masks(), None, activations=plain
        )
        return {"features": self.input_size, "units": self.hidden_size}, why_not

    def _run(
        self, one: _One, x: Tensor, masks: Masks, state: Any, running: Any
    ) -> tuple[Tensor, tuple]:
        weights, library = self._weights(one), self._library()
        plain = library is LIBRARY
        call: dict[str, Any] = {
            "initial_state": state,
            "running": running,
            "reverse": bool(one.direction),
        }
        unasked = exporting.obstacle()
        why_not = unasked or fused.obstacle(x, weights, masks, state, activations=plain)
        if choose(why_not, self.kernel, expected=unasked is not None) == "cpu":
            return fused.unroll(self.cell, x, weights, masks, **call)
        if exporting.exporting():
            return exporting.unroll(
                self.cell, x, weights, floats(masks, x), **call, library=library
            )
        return cells.unroll(self.cell, x, weights, floats(masks, x), **call, library=library)

    def _library(self) -> cells.Library:
        return LIBRARY

    def _weights(self, one: _One) -> cells.Weights:
        # By name at each call, so that parametrizations and functional_call hold.
        names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if self.bias else ()))
        found = [getattr(self, f"{name}_{one.name}") for name in names]
        found += [None] * (4 - len(found))
        return from_torch(self.cell, *found, concatenate=torch.cat)

    def _check(self, x: Tensor, given: Tensor, lengths: Tensor | None) -> None:
        if x.dim() != 3 or x.shape[-1] != self.input_size or x.shape[1] == 0:
            axes = "batch, timesteps" if self.batch_first else "timesteps, batch"
            raise LapseError(
                f"the input has shape {tuple(given.shape)}; {type(self).__name__} needs "
                f"({axes}, {self.input_size}) with at least one timestep."
            )
        kind = self.weight_ih_l0.dtype
        if x.dtype != kind and not torch._C._is_any_autocast_enabled():
            raise LapseError(
                f"RNN input dtype ({x.dtype}) does not match weight dtype ({kind}). "
                f"Convert input: input.to({kind}), or convert model: model.to({x.dtype})."
            )
        if lengths is None:
            return
        batch, timesteps = x.shape[:2]
        lengths = torch.as_tensor(lengths)
        whole = not (lengths.is_floating_point() or lengths.dtype == torch.bool)
        if lengths.shape != (batch,) or not whole:
            raise LapseError(
                f"lengths has shape {tuple(lengths.shape)} and type {lengths.dtype}; it needs one "
                f"whole number for each of the {batch} sequences."
            )
        if torch.compiler.is_compiling():  # a graph can't ask for values
            return
        if batch and not 1 <= int(lengths.min()) <= int(lengths.max()) <= timesteps:
            raise LapseError(
                f"lengths run from {int(lengths.min())} to {int(lengths.max())}; each must lie "
                f"between 1 and the {timesteps} timesteps of the input."
            )

    def _states(self, hx: Any, batch: int, single: bool) -> tuple[Tensor, ...] | None:
        if hx is None:
            return None
        parts = tuple(hx) if self.cell == "LSTM" and not isinstance(hx, Tensor) else (hx,)
        if not all(isinstance(part, Tensor) for part in parts):
            raise LapseError(
                f"hx is {hx!r}; {type(self).__name__} needs "
                f"{'a pair (h, c) of tensors' if self.cell == 'LSTM' else 'one tensor h'}."
            )
        names = ("h", "c")[: 2 if self.cell == "LSTM" else 1]
        count = len(self._ones)
        want = (count, self.hidden_size) if single else (count, batch, self.hidden_size)
        if len(parts) != len(names) or any(tuple(part.shape) != want for part in parts):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise LapseError(
                f"hx has shapes {shapes}; {type(self).__name__} needs {' and '.join(names)} of "
                f"shape {want}."
            )
        return tuple(part.unsqueeze(1) if single else part for part in parts)


def _numbers(samples: Any, batch: int) -> list[int]:
    numbers = torch.as_tensor(samples)
    whole = not (numbers.is_floating_point() or numbers.dtype == torch.bool)
    if numbers.shape != (batch,) or not whole:
        raise LapseError(
            f"samples has shape {tuple(numbers.shape)} and type {numbers.dtype}; it needs one "
            f"whole number for each of the {batch} sequences."
        )
    return list(map(int, numbers))


def _running(lengths: Any, timesteps: int, device: torch.device) -> Tensor:
    ends: Tensor = torch.as_tensor(lengths, device=device)[:, None]
    return torch.arange(timesteps, device=device) < ends


class LSTM(_Recurrent):
    """`torch.nn.LSTM` with noise inside.

    Takes every argument of `nn.LSTM` but `proj_size`, and by keyword those below. Noise acts in
    each layer and direction, with masks of its own; `dropout=` acts between layers as in PyTorch.

    Args:
        recurrent_dropout: rate in [0, 1) of dropping what each gate reads of h, one mask per
            sequence and gate, as in Keras.
        noise: a form (`lapse.Zoneout()`), terms as text ("x:.4@BF U:.5@IO"), or a list of these.
        generator: where the seed of each training call comes from; PyTorch's global one if None,
            which is the only one that `torch.utils.checkpoint` sets back to draw the same again
            (with one of its own, give it `masks=`).
        kernel: "auto", or by force "cpu", the C++ kernel, or "reference", the plain loop. Beside it
            stands the environment variable LAPSE_KERNEL, for layers that say "auto".

    Raises:
        LapseError: for noise that this cell can't have; at a call, for a kernel that can't run it.
    """

    cell = "LSTM"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(_Recurrent):
    """`torch.nn.GRU` with noise inside; the extra arguments are those of `LSTM`."""

    cell = "GRU"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("GRU", *args, **kwargs)


class RNN(_Recurrent):
    """`torch.nn.RNN` with noise inside; the extra arguments are those of `LSTM`.

    As in PyTorch, `nonlinearity` ("tanh" or "relu") comes fourth or by keyword.
    """

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
