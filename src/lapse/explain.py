"""What a layer does with its noise, in words, and which engine runs it and why."""

from __future__ import annotations

from typing import Any

from lapse.core import masks
from lapse.core.errors import LapseError
from lapse.core.noise import Term
from lapse.core.plan import GATES, Plan, Source

_WHERE = {
    "x": "the layer input",
    "h": "the hidden state, as the recurrent kernel reads it",
    "y": "the layer output",
    "W": "the kernel",
    "U": "the recurrent kernel",
    "i": "the input gate",
    "f": "the forget gate",
    "g": "the candidate",
    "o": "the output gate",
    "z": "the update gate",
    "r": "the reset gate",
    "n": "the candidate",
    "c": "the cell state",
    "s": "the hidden state, as carried and emitted",
    "state": "all carried states, with one coin",
}
_USUAL = (32, 100)  # samples and timesteps of a batch, for the choice of an engine
_ALONG = {"B": "sample", "F": "feature", "G": "gate", "I": "row", "O": "column"}


def explain(layer: Any) -> str:
    """What a recurrent layer of lapse does, in words.

    For each noise it says what it acts on, with a mask of which shape, drawn how often and scaled
    how; and which engine runs the layer, and why.

    Args:
        layer: of `lapse.torch`, or of `lapse.keras` once it is built.

    Raises:
        LapseError: for anything else.
    """
    if not hasattr(layer, "plans"):
        raise LapseError(
            f"{type(layer).__module__}.{type(layer).__qualname__} is not a recurrent layer of "
            "lapse; explain takes an LSTM, GRU, RNN or SimpleRNN of lapse.torch or lapse.keras."
        )
    plans, lines = layer.plans(), []
    if isinstance(layer.noise, dict):
        lines += [
            f"{type(layer).__name__} whose layers have noise of their own.",
            *_of_stack(layer),
        ]
        for number, (plan, sizes) in enumerate(plans):
            lines += _of_layer(f"Layer {number}", plan, sizes)
    else:
        said, *of_terms = _of_layer(type(layer).__name__, *plans[0])
        lines += [said, *_of_stack(layer), *of_terms]
    try:
        return "\n".join([*lines, *_of_engines(layer)])
    except LapseError as error:
        return "\n".join([*lines, f"Can't run: {error}"])


def _of_engines(layer: Any) -> list[str]:
    """Which engine runs each layer, and which a single step if that differs."""
    usual = layer.choices(*_USUAL, training=True)
    trained, evaluated = (layer.choices(1, 1, training=training) for training in (True, False))
    if len({(choice.engine.name, choice.why) for choice in usual}) == 1:
        usual, trained, evaluated = usual[:1], trained[:1], evaluated[:1]
    lines = []
    for number, (many, *one) in enumerate(zip(usual, trained, evaluated, strict=True)):
        where = f" of layer {number}" if len(usual) > 1 else ""
        lines.append((f"Layer {number} runs" if where else "Runs") + _on(many))
        if one[1].engine is not many.engine:
            when = "" if one[0].engine is one[1].engine else " in evaluation"
            lines.append(f"A single step{where}{when} runs{_on(one[1])}")
    return lines


def _on(choice: Any) -> str:
    return f" on {choice.engine.title}, because {choice.why}."


def _of_layer(name: str, plan: Plan, sizes: dict[str, int]) -> list[str]:
    filled: dict[Source, list[str]] = {}  # where noise fills several slots, its coins are the same
    for slot, sources in plan.slots:
        for one in sources:
            filled.setdefault(one, []).append(slot)
    terms = " ".join(str(one.term) for one in filled)
    lines = [f"{name} with {f'the noise {terms}' if terms else 'no noise'}."]
    for one, slots in filled.items():
        lines += _of_term(one, slots, plan.cell, sizes)
    return lines


def _of_stack(layer: Any) -> list[str]:
    """Of PyTorch's layers, which may be several in one."""
    layers, directions = getattr(layer, "num_layers", 1), 1 + getattr(layer, "bidirectional", False)
    if layers * directions == 1:
        return []
    each = [f"{layers} layers"] * (layers > 1) + ["2 directions"] * (directions > 1)
    apart = f"{' and '.join(each)}, with masks of their own"
    if isinstance(layer.noise, dict):
        return [f"{apart}."]
    lines = [f"{apart}; the shapes are those of the first."]
    if layers > 1 and layer.dropout:
        lines.append(f"Layers after the first have x:{layer.dropout}@BTF besides, from dropout=.")
    return lines


def _of_term(one: Source, slots: list[str], cell: str, sizes: dict[str, int]) -> list[str]:

    term = one.term
    rate, scale = term.probability, term.factor
    whole: dict[str, Any] = {
        "batch": "batch",
        "timesteps": "timesteps",
        "gates": len(GATES[cell]),
        **sizes,
    }
    shapes = {slot: masks.shape(slot, (one,), **whole) for slot in slots}
    of_h = [shape for slot, shape in shapes.items() if slot in ("s", "k_h")]
    of_c = [shape for slot, shape in shapes.items() if slot not in ("s", "k_h")]
    mask = _sizes((of_c or of_h)[0])
    if of_c and of_h and of_c[0] != of_h[0]:  # a projection makes h narrower than c
        mask = f"{mask} for c and {_sizes(of_h[0])} for h"
    return [
        f"{term} acts on {_WHERE[term.site]}:",
        f"    {_effect(term, rate, scale)};",
        f"    drawn {_how_often(term)}, as a mask of {mask};",
        f"    in evaluation {_evaluation(term, 1 - rate)}.",
    ]


def _sizes(shape: tuple) -> str:
    return f"({', '.join(map(str, shape))})"


def _effect(term: Term, rate: float, scale: float) -> str:
    if term.fill == "prev":
        return f"keeps its old value with probability {rate:g}"
    if term.law == "concrete":
        return (
            f"multiplied by numbers between 0 and {scale:.3g} (concrete), most of them near an "
            f"end: near the lower one with probability {rate:g}"
        )
    if term.law != "bern":
        return f"multiplied by numbers ({term.law}) of mean 1 and variance {rate / (1 - rate):.3g}"
    kept = f", and what is kept is multiplied by {scale:.3g}"
    return f"0 with probability {rate:g}{kept if term.scale == 'inv' else ''}"


def _evaluation(term: Term, kept: float) -> str:
    if term.fill == "prev":
        return f"moved by {kept:g} of the way from its old value to the new one"
    return f"multiplied by {kept:g}" if term.scale == "exp" else "unchanged"


def _how_often(term: Term) -> str:
    axes = term.axes
    time = axes.get("T")
    if term.site in ("W", "U") or ("B" not in axes and time is None):
        how = "once per call"
    elif time is None:
        how = "once per sequence"
    elif time.run == "/" and time.size > 1:
        how = f"every {int(time.size)} steps"
    elif time.run == "~":
        how = f"anew with probability {time.size:g} at each step"
    elif time.run == "[":
        how = f"in spans of 1 to {int(time.size)} steps"
    else:
        how = "at each step"
    if "F" in axes and axes["F"].run == "[":
        how += f", in spans of 1 to {int(axes['F'].size)} features"
    along = [_ALONG[name] for name, axis in axes.items() if name in _ALONG and axis.run != "["]
    return how + (f", independently for each {_listed(along)}" if along else "")


def _listed(words: list[str]) -> str:
    return " and ".join(", ".join(words).rsplit(", ", 1))
