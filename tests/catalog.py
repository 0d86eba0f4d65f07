"""Every cell, every noise, every layer and its options once: the cases that tests run through.

A new form, option, site, law, scale, run, cell, layer or function has to be added here:
`test_catalog.py` fails until it is. `legal` says which noise a cell must refuse; it is written from
the rules, not from the code.
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

import lapse
from lapse.core import forms as lapse_forms
from lapse.core.drawing import draw
from lapse.core.forms import Form
from lapse.core.masks import Masks
from lapse.core.noise import collect
from lapse.core.plan import Plan, plan
from lapse.core.weights import Weights


class Tolerance(NamedTuple):
    """How far two computations of one number may lie apart, relative to the largest of them."""

    values: float  # outputs and states
    gradients: float  # from automatic differentiation, both sides
    differences: float  # a gradient against finite differences


TOLERANCE = {
    "float64": Tolerance(values=1e-12, gradients=1e-12, differences=1e-6),
    "float32": Tolerance(values=1e-6, gradients=1e-5, differences=1e-2),
}
SIGMAS = 5  # how far a statistic may lie from its expectation, in standard deviations
ODD_SIZES = (1, 7, 31, 63)  # never a multiple of a vector's width
WIDTHS = (1, 15, 16, 17, 31, 32, 33, 63, 64, 65)  # full vectors and panels, and one less or more
STATES = {"LSTM": 2, "GRU": 1, "SimpleRNN": 1}


@dataclass(frozen=True)
class Cell:
    """A cell as `cells.unroll` takes it."""

    name: str
    reset_after: bool = True

    @property
    def gates(self) -> int:
        return {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}[self.name]

    @property
    def id(self) -> str:
        return self.name if self.reset_after else f"{self.name}-reset-before"


LSTM, GRU, GRU_RESET_BEFORE, SIMPLE_RNN = CELLS = (
    Cell("LSTM"),
    Cell("GRU"),
    Cell("GRU", reset_after=False),
    Cell("SimpleRNN"),
)


def variants(form: type[Form]) -> list[Form]:
    """A form in all its ways: every field with two values or more, and each rate alone."""
    types = {field.name: field.type for field in fields(form)}
    rates = [name for name, kind in types.items() if kind == "float"]
    made = []
    for rotation, number, flag in ((0, 1, True), (1, 3, False)):
        values: dict[str, Any] = {
            name: (0.3, 0.4, 0.5, 0.2)[(n + rotation) % 4] for n, name in enumerate(rates)
        }
        values |= {name: number for name, kind in types.items() if kind == "int"}
        values |= {name: flag for name, kind in types.items() if kind == "bool"}
        made.append(form(**values))
    alone = [{other: 0.5 * (other == name) for other in rates} for name in rates]
    return made + [form(**values) for values in (alone if len(rates) > 1 else [])]


FORMS = tuple(variant for form in lapse_forms.FORMS for variant in variants(form))

TERMS = (
    # the input: each pattern of axes
    *(f"x:0.5@{over}" for over in ("BTF", "BF", "BT", "TF", "B", "T", "F", "G", "BFG", "BTFG")),
    "x:0.3@BTF!none",
    "x:0.3@BF!exp",
    # what the recurrent kernel reads
    *(f"h:0.5@{over}" for over in ("BTF", "BF", "BT", "F", "BFG", "BTFG", "TG")),
    "h:0.3@BF!none",
    "h:0.3@BFG!exp",
    # the output
    *(f"y:0.5@{over}" for over in ("BTF", "BF", "T")),
    "y:0.3@BF!none",
    "y:0.3@BT!exp",
    # weights
    *(f"{site}:0.5@{over}" for site in "WU" for over in ("IO", "I", "O")),
    "W:0.3@IO!exp",
    "U:0.3@IO!none",
    # gates and candidates
    *(f"{site}:0.3@BTF" for site in "ifgozrn"),
    *(f"{site}:0.3@BF!none" for site in "ifgozrn"),
    *(f"{site}:0.3@TF!inv" for site in "igorn"),
    "i:0.3@BT f:0.3@BT o:0.3@BT",
    # what is carried from step to step
    *(f"{site}:0.3@BF!exp" for site in ("c", "s", "state")),
    *(f"{site}:0.3@BTF!none" for site in ("c", "s", "state")),
    *(f"{site}:0.3@BTF>prev" for site in ("c", "s", "state")),
    *(f"{site}:0.3@BF>prev" for site in ("c", "s", "state")),
    "s:0.3@BF",
    "state:0.3@T>prev",
    # an embedding table is no part of a recurrent layer
    "emb:0.3@V",
    "emb:0.3@BV!none",
    # laws
    *(f"{site}:0.3@BTF~{law}" for site in "xhy" for law in ("gauss", "uniform", "concrete")),
    *(f"{site}:0.3@IO~{law}" for site in "WU" for law in ("gauss", "uniform", "concrete")),
    "h:0.3@BFG~gauss",
    "i:0.3@BF~uniform!inv",
    "g:0.3@BTF~gauss!inv",
    "f:0.3@BTF~concrete",
    "n:0.3@BTF~concrete",
    "z:0.3@BF~concrete!none",
    "c:0.3@BTF~concrete!exp",
    "s:0.3@BTF~gauss",
    # runs along time and features
    "x:0.5@BT/2F",
    "x:0.5@BT~0.3F",
    "x:0.5@BT~0.3F~gauss",
    "x:0.4@BT[3]",
    "x:0.4@T[3]!none",
    "x:0.4@BF[2]",
    "x:0.4@BTF[2]!none",
    "h:0.5@BT/2F",
    "h:0.5@BT~0.3FG",
    "y:0.4@BT[3]F",
    "g:0.3@BT~0.3F",
    "c:0.3@BT/2F>prev",
    "s:0.3@BT[2]>prev",
    "state:0.3@BT~0.3>prev",
    # several terms at once
    "x:0.3@BTF x:0.3@BF",
    "x:0.1@BTF x:0.1@BF x:0.1@BT x:0.1@F",
    "h:0.2@BF h:0.2@BTF h:0.2@BFG",
    "y:0.3@BTF y:0.3@T!exp",
    "U:0.3@IO U:0.3@I",
    "W:0.3@IO U:0.3@IO",
    "c:0.3@BF>prev c:0.3@BTF>prev",
    "s:0.2@BTF>prev state:0.2@BT>prev",
    "i:0.2@BTF c:0.2@BF!none",
    "g:0.2@BTF!inv n:0.2@BF!inv",
    "x:0.2@BF h:0.2@BFG y:0.2@BTF W:0.2@IO U:0.2@IO s:0.2@BTF>prev",
    # legal to write down, but no layer runs them yet
    "x:0.0,0.3@0.5,0.0@BF",
    "h:learned@BF~concrete",
    # a fifth term at one site has no stream
    "x:0.1@B x:0.1@T x:0.1@F x:0.1@BT x:0.1@BF",
)

NOISE: dict[str, Any] = {
    **{repr(form): form for form in FORMS},
    **{text: text for text in TERMS},
    "[WeightDrop, Locked]": [lapse.WeightDrop(0.5), lapse.Locked(0.4)],
    "[Zoneout, h]": [lapse.Zoneout(hidden=0.3), "h:0.2@BF", ()],
    "[Term]": lapse.Term("x", 0.5, "BTF"),
}

# Rule 9: what each cell has.
SITES = {
    "LSTM": {*"xhyWUifgocs", "state"},
    "GRU": {*"xhyWUzrngs", "state"},
    "SimpleRNN": {*"xhyWUs", "state"},
}


def legal(cell: Cell, noise: Any) -> bool:
    """Whether `cell` can run `noise`, whose terms are well formed by themselves."""
    terms = collect(noise)
    for term in terms:
        if term.site not in SITES[cell.name]:
            return False
        # Rule 1: a GRU's h is also what it carries elementwise.
        if cell.name == "GRU" and term.site == "s" and term.fill != "prev" and term.scale == "inv":
            return False
        if not isinstance(term.rate, float):  # rates that change are not run yet
            return False
    return max(Counter(term.site for term in terms).values(), default=0) <= 4


CASES = [(cell, name) for cell in CELLS for name in NOISE if legal(cell, NOISE[name])]
CASE_IDS = [f"{cell.id} {name}" for cell, name in CASES]


# Each public layer, with the options of its constructor and the values that tests run it with.
FLAGS = (False, True)
RATES = (0.0, 0.3)
_TORCH: dict[str, tuple] = {
    "input_size": WIDTHS,
    "hidden_size": WIDTHS,
    "num_layers": (1, 2, 3),
    "bias": FLAGS,
    "batch_first": FLAGS,
    "dropout": RATES,
    "bidirectional": FLAGS,
    "device": (None, "cpu"),
    "dtype": ("float32", "float64"),
    "recurrent_dropout": RATES,
    "noise": tuple(NOISE),
    "generator": (None, "its own"),
    "engine": ("auto", "native", "cpu", "reference"),
}
_KERAS_LAYER: dict[str, tuple] = {
    "activity_regularizer": (None, "l2"),
    "trainable": FLAGS,
    "dtype": ("float32", "float64", "mixed_bfloat16"),
    "autocast": FLAGS,
    "name": (None, "mine"),
}
_KERAS_CELL: dict[str, tuple] = {
    **_KERAS_LAYER,
    "units": WIDTHS,
    "activation": ("tanh", "relu", None),
    "use_bias": FLAGS,
    "kernel_initializer": ("glorot_uniform", "he_normal"),
    "recurrent_initializer": ("orthogonal", "identity"),
    "bias_initializer": ("zeros", "ones"),
    **{f"{weight}_regularizer": (None, "l2") for weight in ("kernel", "recurrent", "bias")},
    **{f"{weight}_constraint": (None, "non_neg") for weight in ("kernel", "recurrent", "bias")},
    "dropout": RATES,
    "recurrent_dropout": RATES,
    "seed": (None, 5),
    "noise": tuple(NOISE),
}
_GATES: dict[str, tuple] = {
    "recurrent_activation": ("sigmoid", "softsign"),
    "implementation": (1, 2),
}
_LSTM: dict[str, tuple] = {**_GATES, "unit_forget_bias": FLAGS}
_GRU: dict[str, tuple] = {**_GATES, "reset_after": FLAGS}
_KERAS_LOOP: dict[str, tuple] = {
    "return_sequences": FLAGS,
    "return_state": FLAGS,
    "go_backwards": FLAGS,
    "stateful": FLAGS,
    "unroll": FLAGS,
    "zero_output_for_mask": FLAGS,
    "engine": ("auto", "native", "cpu", "reference"),
}
_KERAS = {**_KERAS_CELL, **_KERAS_LOOP}
_CUDNN: dict[str, tuple] = {"use_cudnn": ("auto", False)}
LAYERS: dict[str, dict[str, tuple]] = {
    "lapse.torch.LSTM": {**_TORCH, "proj_size": (0, 1, 3)},
    "lapse.torch.GRU": _TORCH,
    "lapse.torch.RNN": {**_TORCH, "nonlinearity": ("tanh", "relu")},
    "lapse.torch.Embedding": {
        "num_embeddings": (7, 31),
        "embedding_dim": WIDTHS,
        "padding_idx": (None, 2),
        "max_norm": (None, 0.5),
        "norm_type": (2.0, 1.0),
        "scale_grad_by_freq": FLAGS,
        "sparse": FLAGS,
        "_weight": (None, "a table"),
        "_freeze": FLAGS,
        "device": (None, "cpu"),
        "dtype": ("float32", "float64"),
        "noise": (None, "emb:0.3@V", "emb:0.3@BV!exp"),
        "generator": (None, "its own"),
    },
    "lapse.keras.LSTM": {**_KERAS, **_LSTM, **_CUDNN},
    "lapse.keras.GRU": {**_KERAS, **_GRU, **_CUDNN},
    "lapse.keras.SimpleRNN": _KERAS,
    "lapse.keras.LSTMCell": {**_KERAS_CELL, **_LSTM},
    "lapse.keras.GRUCell": {**_KERAS_CELL, **_GRU},
    "lapse.keras.SimpleRNNCell": _KERAS_CELL,
    "lapse.keras.Dropout": {
        **_KERAS_LAYER,
        "rate": RATES,
        "noise_shape": (None, (None, 1, None)),
        "seed": (None, 5),
        "over": ("BTF", "BF", "BT[3]"),
        "scale": ("inv", "exp", "none"),
    },
    "lapse.keras.SpatialDropout1D": {
        "rate": RATES,
        "seed": (None, 5),
        "name": (None, "mine"),
        "dtype": ("float32", "float64"),
    },
    "lapse.keras.TimestepDropout": {
        "rate": RATES,
        "seed": (None, 5),
        "scale": ("inv", "none"),
        "name": (None, "mine"),
        "dtype": ("float32", "float64"),
    },
    "lapse.keras.Embedding": {
        **_KERAS_LAYER,
        "input_dim": (7, 31),
        "output_dim": WIDTHS,
        "embeddings_initializer": ("uniform", "ones"),
        "embeddings_regularizer": (None, "l2"),
        "embeddings_constraint": (None, "non_neg"),
        "mask_zero": FLAGS,
        "weights": (None, "a table"),
        "lora_rank": (None, 2),
        "lora_alpha": (None, 3),
        "quantization_config": (None,),  # of Keras's own quantize()
        "noise": (None, "emb:0.3@V", "emb:0.3@BV!exp"),
        "seed": (None, 5),
    },
}

# Each public function and class that is no layer, and the tests of it.
FUNCTIONS = {
    "lapse.explain": "test_explain.py",
    "lapse.parse": "test_noise.py",
    "lapse.Term": "test_noise.py",
    "lapse.Form": "test_forms.py",
    "lapse.LapseError": "test_noise.py",
    "lapse.Masks": "test_masks.py",
    "lapse.PlainLoopWarning": "test_kernels.py",
    "lapse.predict": "test_predict.py",
    "lapse.Prediction": "test_predict.py",
    "lapse.torch.mc_dropout": "test_predict.py",
    "lapse.keras.mc_dropout": "keras_layers/test_mc.py",
    "lapse.torch.convert": "test_torch_convert.py",
    "lapse.torch.to_native": "test_torch_convert.py",
    "lapse.keras.convert": "keras_layers/test_convert.py",
    "lapse.keras.to_native": "keras_layers/test_convert.py",
}


def public(module: Any) -> dict[str, Any]:
    """What a module exports, by its whole name."""
    return {
        f"{module.__name__}.{name}": value
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }


def options_of(layer: type) -> set[str]:
    """The arguments of a layer's constructor, with those that it hands on to its bases."""
    found: set[str] = set()
    for base in layer.__mro__:
        if "__init__" not in vars(base):
            continue
        kinds = {
            p.name: p.kind for p in inspect.signature(vars(base)["__init__"]).parameters.values()
        }
        found |= {name for name, kind in kinds.items() if kind not in (_REST, _NAMED_REST)}
        if _NAMED_REST not in kinds.values():
            break
    return found - {"self", "mode", "cell"}  # the last two a subclass gives itself


_REST, _NAMED_REST = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def plan_for(noise: Any, cell: Cell | str, *, projected: bool = False) -> Plan:
    """The plan of a cell's noise."""
    return plan(noise, cell if isinstance(cell, str) else cell.name, projected=projected)


def frozen_masks(cell: Cell, noise: Any, x: np.ndarray, units: int, seed: int = 1) -> Masks:
    """float64 masks for the input `x` (batch, timesteps, features)."""
    batch, timesteps, features = x.shape
    drawn = draw(
        plan_for(noise, cell),
        seed,
        batch=batch,
        timesteps=timesteps,
        features=features,
        units=units,
    )
    return Masks(*(None if mask is None else mask.astype(np.float64) for mask in drawn))


class Problem(NamedTuple):
    """What a cell is run on, in float64."""

    x: np.ndarray
    weights: Weights
    state: tuple[np.ndarray, ...]


def problem(
    cell: Cell,
    *,
    batch: int = 3,
    timesteps: int = 5,
    features: int = 4,
    units: int = 3,
    bias: bool = True,
    seed: int = 0,
) -> Problem:
    random = np.random.default_rng(seed)
    columns = cell.gates * units
    shape = (2, columns) if cell.name == "GRU" and cell.reset_after else (columns,)
    weights = Weights(
        random.normal(size=(features, columns)) / np.sqrt(features),
        random.normal(size=(units, columns)) / np.sqrt(units),
        random.normal(size=shape) if bias else None,
    )
    x = random.normal(size=(batch, timesteps, features))
    state = tuple(random.normal(size=(batch, units)) for _ in range(STATES[cell.name]))
    return Problem(x, weights, state)


def distance(found: Any, expected: Any) -> float:
    """The largest difference of two arrays, relative to the largest entry (or to 1 if smaller)."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"shape {found.shape} instead of {expected.shape}"
    if not found.size:
        return 0.0
    return float(np.max(np.abs(found - expected)) / max(1.0, np.max(np.abs(expected))))
