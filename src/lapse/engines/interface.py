"""What an engine is: one way to run a layer. `choice.py` has the list of them.

A call has everything that an engine needs to run a layer, or to say why it can't. A new engine is
a folder with a subclass of `Engine`, or of `fused.Fused` if it has its own backward pass, and an
entry in the list. Front-ends and backends do not change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from lapse.core.backend import Backend
from lapse.core.masks import Coins, Masks, Redrawn
from lapse.core.noise import Term
from lapse.core.plan import Plan
from lapse.core.weights import TorchWeights, Weights, from_torch, to_torch

if TYPE_CHECKING:
    from lapse.engines.arrays import Flags, Inputs

Again = Callable[[], Any] | None
Function = TypeVar("Function", bound=Callable)


class Framework(Backend):
    """A backend whose arrays have gradients, and may be part of graphs that run later."""

    @abstractmethod
    def like(self, array: Any, other: Any) -> Any:
        """An array converted to the type and device of another."""

    @abstractmethod
    def broadcast(self, array: Any, shape: Any) -> Any: ...

    @abstractmethod
    def dtype(self, array: Any) -> str:
        """The name of its type, such as "float32"."""

    @abstractmethod
    def device(self, array: Any) -> str:
        """The device of an array: "cpu", or the name of another kind of device."""

    @abstractmethod
    def in_graph(self, array: Any = None) -> bool:
        """Whether operations are traced now, to run later; JAX needs an array to know."""

    @abstractmethod
    def transform(self, call: Call) -> str | None:
        """Why an active transform of the framework, such as vmap, prevents an engine; or None."""

    compiles_engines: ClassVar[bool] = True  # whether XLA can compile graphs that call engines

    # The framework's own recurrent functions by cell and activation (None for tanh), for the engine
    # `native`: over sequences, and for one step.
    sequences: ClassVar[Mapping[tuple[str, Callable | None], Callable]] = {}
    steps: ClassVar[Mapping[tuple[str, Callable | None], Callable]] = {}

    def as_written(self, function: Function) -> Function:
        """Keeps the framework from rewriting a function that it traces."""
        return function

    def exporting(self) -> bool | None:
        """Whether a graph is traced that must run without lapse; None if unknown."""
        return None

    def seeded(self, seed: int) -> AbstractContextManager[None]:
        """Seeds the framework's own generators in the block, if layers may draw from them."""
        return nullcontext()

    def records(self) -> bool:
        """Whether operations are recorded for gradients."""
        return True

    def wants_gradient(self, array: Any) -> bool:
        """Whether the gradient of an array may be needed, if the framework knows."""
        return False

    @abstractmethod
    def differentiable(
        self, engine: str, flags: Flags, inputs: Inputs, scales: tuple[float, ...],
        again: tuple[Again, ...],
    ) -> tuple[Any, Any, Any, Any]:  # fmt: skip
        """`forward` of a `fused.Fused`, whose gradients are those of its `backward`.

        Args:
            engine: the name of the engine.
            flags, inputs, scales: as for `forward`.
            again: for the mask of x, the mask of h and the slots, a function that draws it again
                for backward; None where the mask is kept.

        Returns:
            The last h, the last c, all h and all outputs, as in `arrays.Results`.
        """

    @abstractmethod
    def draw(self, plan: Plan, seed: Any, **sizes: Any) -> Masks:
        """Compact masks, drawn on the processor, also when a graph runs.

        Args:
            seed: a whole number, or its two words.
            sizes: batch, timesteps, features, units, projected, samples, layer and direction, as
                in `drawing.draw`.
        """

    def draw_in_graph(self, plan: Plan, seed: Any, **sizes: Any) -> Masks:
        """The same by the framework's own operations, for graphs that run without lapse.

        PyTorch's exported programs keep lapse's operator, so there it is `draw`.
        """
        return self.draw(plan, seed, **sizes)

    @abstractmethod
    def draw_rows(self, terms: Sequence[Term], seed: Any, **sizes: Any) -> Any:
        """The mask of an embedding table; see `drawing.draw_rows`."""

    def numbers(self, masks: Masks, like: Any) -> Masks:
        """Masks as arrays with the type and device of another array."""

        def one(mask: Any) -> Any:
            if mask is None or isinstance(mask, float):
                return mask
            if isinstance(mask, Coins):
                return self.like(mask.kept, like) * mask.scale
            return self.like(mask.numbers if isinstance(mask, Redrawn) else mask, like)

        return Masks(*map(one, masks))


class Call(NamedTuple):
    """One call of one layer in one direction."""

    backend: Framework
    cell: str  # "LSTM", "GRU" or "SimpleRNN"
    x: Any  # (batch, timesteps, features)
    weights: Weights | TorchWeights
    plan: Plan
    masks: Masks | None = None  # passed by the user
    training: bool = False  # whether masks are drawn if none are passed
    initial_state: tuple | None = None  # h, for LSTM h and c, each (batch, units)
    running: Any = None  # (batch, timesteps) booleans, False where a step is padding
    lengths: Any = None  # (batch,): the real steps of each sequence, where padding is at the end
    reset_after: bool = True
    reverse: bool = False
    activation: Callable | None = None  # None stands for tanh
    recurrent_activation: Callable | None = None  # None stands for sigmoid
    exporting: bool = False  # whether the call is traced to run without lapse
    leading_axis: bool = False  # whether states have an axis of 1 in front, as `hx` of PyTorch

    def keras_weights(self) -> Weights:
        """The weights in Keras's layout."""
        if isinstance(self.weights, Weights):
            return self.weights
        return from_torch(self.cell, self.weights, self.backend)

    def torch_weights(self) -> TorchWeights:
        """The weights in PyTorch's layout."""
        if isinstance(self.weights, TorchWeights):
            return self.weights
        return to_torch(self.cell, self.weights, self.backend)

    def with_weights_like_x(self) -> Call:
        """The same call with weights of the type of x, which may be half precision."""
        if self.weights[0].dtype == self.x.dtype:
            return self
        cast = (w if w is None else self.backend.like(w, self.x) for w in self.weights)
        return self._replace(weights=type(self.weights)(*cast))


class Engine(ABC):
    """One way to run a layer."""

    name: ClassVar[str]
    title: ClassVar[str]  # what users read

    def concerns(self, call: Call) -> bool:
        """Whether the engine is meant for such calls; if not, its obstacles are not reported."""
        return True

    @abstractmethod
    def obstacle(self, call: Call) -> str | None:
        """What prevents the engine from running a call, as text; None if nothing does."""

    def objection(self, call: Call) -> str | None:
        """Why "auto" should prefer a later engine of the list, as text; None if it should not."""
        return None

    def reason(self, call: Call) -> str:
        """Why the engine is chosen if it can run."""
        return "nothing prevents it"

    def draw(self, call: Call, seed: Any, **sizes: Any) -> Masks:
        """The masks of one training call, as `unroll` takes them; see `Framework.draw`."""
        return call.backend.draw(call.plan, seed, **sizes)

    @abstractmethod
    def unroll(self, call: Call, masks: Masks) -> tuple[Any, tuple]:
        """Runs a layer over whole sequences; differentiable.

        Args:
            call: its states have no leading axis.
            masks: from `draw`, from `call.masks`, or the expected ones in evaluation.

        Returns:
            As `cells.unroll`: all outputs (batch, timesteps, units), and the last state.
        """

    def run(self, call: Call, masks: Masks) -> tuple[Any, tuple]:
        """`unroll` for any call; the last state has a leading axis if the first one has."""
        if not call.leading_axis:
            return self.unroll(call, masks)
        state = call.initial_state and tuple(part[0] for part in call.initial_state)
        y, last = self.unroll(call._replace(initial_state=state, leading_axis=False), masks)
        return y, tuple(part[None] for part in last)
