"""`nn.LSTM`, `nn.GRU` and `nn.RNN` with `noise=`: the same signature, `state_dict` and numbers.

One layer and one direction for now. They run on the C++ kernels where these can (see `fused.py`),
else on the plain loop of `cells.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lapse import cells, masks
from lapse.errors import LapseError
from lapse.forms import KerasDropout
from lapse.kernels import check_kernel, choose
from lapse.noise import collect
from lapse.plan import Masks, check_masks, plan
from lapse.torch import fused
from lapse.torch.drawing import draw, draw_seed, scales
from lapse.torch.plain import LIBRARY, floats
from lapse.weights import from_torch


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
        check_kernel(kernel)
        super().__init__(mode, *args, **kwargs)
        if self.num_layers != 1 or self.bidirectional or self.proj_size:
            raise LapseError(
                f"{type(self).__name__} has one layer, one direction and no projection so far, and "
                f"was given num_layers={self.num_layers}, bidirectional={self.bidirectional}, "
                f"proj_size={self.proj_size}; stack modules instead."
            )
        self.recurrent_dropout = recurrent_dropout
        self.generator = generator
        self.kernel = kernel
        terms = collect([KerasDropout(recurrent_dropout=recurrent_dropout), noise])
        self.noise = " ".join(map(str, terms))
        self.plan = plan(terms, self.cell)
        # Here, for torch.compile can't trace them.
        self._expected, self._scales = masks.expected(self.plan), scales(self.plan)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", noise={self.noise!r}" if self.noise else "")

    def draw_masks(self, batch: int, timesteps: int, seed: int | None = None) -> Masks:
        """Draws the masks of one training call.

        Args:
            batch, timesteps: the sizes of the input.
            seed: a whole number in [0, 2**64); by default one from `generator`, or from PyTorch's
                global generator, which `torch.manual_seed` sets.

        Returns:
            One tensor for each slot in use: (batch or 1, timesteps or 1, gates or 1, width or 1),
            for W and U (rows or 1, columns or 1) in Keras's layout.
        """
        words = None if seed is None else torch.tensor(masks.seed_words(seed))
        like: Tensor = self.weight_hh_l0  # type: ignore[assignment]
        return floats(self._draw(batch, timesteps, words), like)

    def _draw(self, batch: int, timesteps: int, seed: Tensor | None = None) -> Masks:
        sizes = {"batch": batch, "timesteps": timesteps}
        return draw(
            self.noise,
            self.cell,
            draw_seed(self.generator) if seed is None else seed,
            self._scales,
            **sizes,
            features=self.input_size,
            units=self.hidden_size,
        )

    def forward(
        self,
        input: Tensor,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        masks: Masks | None = None,
    ) -> tuple[Tensor, Any]:
        """Runs the layer.

        Args:
            input: (timesteps, batch, input_size), with batch_first (batch, timesteps, input_size),
                or (timesteps, input_size) for one sequence.
            hx: the state before the first step, (1, batch, hidden_size), a pair (h, c) for LSTM;
                without the batch axis for one sequence. Zeros by default.
            lengths: (batch,) whole numbers in [1, timesteps]; steps past a sequence's length are
                padding: their output is 0, and the last state is the one at the length.
            masks: from `draw_masks`, used in training and evaluation alike. By default fresh ones
                in training, and in evaluation what they average to.

        Returns:
            The output, shaped like the input with hidden_size features, and the last state,
            shaped like `hx`.

        Raises:
            LapseError: for shapes, lengths or masks that don't fit.
        """
        if isinstance(input, PackedSequence):
            raise LapseError(
                "a PackedSequence was given; pass the padded batch, and lengths= beside it."
            )
        single = input.dim() == 2
        x = input.unsqueeze(0) if single else input
        x = x if self.batch_first or x.dim() != 3 or single else x.swapaxes(0, 1)
        self._check(x, input, lengths)
        batch, timesteps = x.shape[:2]
        state = self._state(hx, batch, single)
        if masks is not None:
            check_masks(
                masks,
                self.plan,
                batch=batch,
                timesteps=timesteps,
                features=self.input_size,
                units=self.hidden_size,
            )
        else:
            draws = self.training and self.plan.slots
            masks = self._draw(batch, timesteps) if draws else self._expected
        running = None if lengths is None else _running(lengths, timesteps, x.device)
        y, last = self._run(x, masks, state, running)
        if running is not None:
            y = torch.where(running[..., None], y, 0)
        last = tuple(part.unsqueeze(0) for part in last)
        if single:
            y, last = y.squeeze(0), tuple(part.squeeze(1) for part in last)
        elif not self.batch_first:
            y = y.swapaxes(0, 1)
        return y, last if self.cell == "LSTM" else last[0]

    def runs(self) -> tuple[dict[str, int], str | None]:
        """For `lapse.explain`: sizes, and what keeps the layer from the C++ kernel."""
        like: Tensor = self.weight_ih_l0  # type: ignore[assignment]
        plain = self._library() is LIBRARY
        why_not = fused.obstacle(like, self._weights(), Masks(), None, activations=plain)
        return {"features": self.input_size, "units": self.hidden_size}, why_not

    def _run(self, x: Tensor, masks: Masks, state: Any, running: Any) -> tuple[Tensor, tuple]:
        weights, library = self._weights(), self._library()
        plain = library is LIBRARY
        call: dict[str, Any] = {"initial_state": state, "running": running}
        why_not = fused.obstacle(x, weights, masks, state, activations=plain)
        if choose(why_not, self.kernel) == "cpu":
            return fused.unroll(self.cell, x, weights, masks, **call)
        return cells.unroll(self.cell, x, weights, floats(masks, x), **call, library=library)

    def _library(self) -> cells.Library:
        return LIBRARY

    def _weights(self) -> cells.Weights:
        # By name at each call, so that parametrizations and functional_call hold.
        biases = (self.bias_ih_l0, self.bias_hh_l0) if self.bias else (None, None)
        return from_torch(
            self.cell, self.weight_ih_l0, self.weight_hh_l0, *biases, concatenate=torch.cat
        )

    def _check(self, x: Tensor, given: Tensor, lengths: Tensor | None) -> None:
        if x.dim() != 3 or x.shape[-1] != self.input_size or x.shape[1] == 0:
            axes = "batch, timesteps" if self.batch_first else "timesteps, batch"
            raise LapseError(
                f"the input has shape {tuple(given.shape)}; {type(self).__name__} needs "
                f"({axes}, {self.input_size}) with at least one timestep."
            )
        if lengths is None:
            return
        batch, timesteps = x.shape[:2]
        lengths = torch.as_tensor(lengths)
        if lengths.shape != (batch,) or lengths.is_floating_point():
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

    def _state(self, hx: Any, batch: int, single: bool) -> tuple[Tensor, ...] | None:
        if hx is None:
            return None
        parts = tuple(hx) if self.cell == "LSTM" and not isinstance(hx, Tensor) else (hx,)
        if not all(isinstance(part, Tensor) for part in parts):
            raise LapseError(
                f"hx is {hx!r}; {type(self).__name__} needs "
                f"{'a pair (h, c) of tensors' if self.cell == 'LSTM' else 'one tensor h'}."
            )
        names = ("h", "c")[: 2 if self.cell == "LSTM" else 1]
        want = (1, self.hidden_size) if single else (1, batch, self.hidden_size)
        if len(parts) != len(names) or any(tuple(part.shape) != want for part in parts):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise LapseError(
                f"hx has shapes {shapes}; {type(self).__name__} needs {' and '.join(names)} of "
                f"shape {want}."
            )
        return tuple(part if single else part[0] for part in parts)


def _running(lengths: Any, timesteps: int, device: torch.device) -> Tensor:
    ends: Tensor = torch.as_tensor(lengths, device=device)[:, None]
    return torch.arange(timesteps, device=device) < ends


class LSTM(_Recurrent):
    """`torch.nn.LSTM` with noise inside.

    Takes every argument of `nn.LSTM` (one layer, one direction), and by keyword:

    Args:
        recurrent_dropout: rate in [0, 1) of dropping what each gate reads of h, one mask per
            sequence and gate, as in Keras.
        noise: a form (`lapse.Zoneout()`), terms as text ("x:.4@BF U:.5@IO"), or a list of these.
        generator: where the seed of each training call comes from; PyTorch's global one if None,
            which is the only one that `torch.utils.checkpoint` sets back to draw the same again.
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
