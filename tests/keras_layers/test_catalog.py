"""The catalogue has every layer and option of lapse.keras, and each is taken as Keras takes it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras_support import BACKEND, TOLERANCE, array, quietly

import catalog
import lapse.keras
from catalog import FUNCTIONS, LAYERS

NAMES = [name for name in LAYERS if name.startswith("lapse.keras.")]


def test_the_catalogue_has_everything_public() -> None:
    listed = {name for name in (*LAYERS, *FUNCTIONS) if name.startswith("lapse.keras.")}
    assert set(catalog.public(lapse.keras)) == listed


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_has_every_option(name: str) -> None:
    """`implementation` is Keras's own, which it takes from what no signature names."""
    found = catalog.options_of(catalog.public(lapse.keras)[name])
    assert found == set(LAYERS[name]) - {"implementation"}


def theirs(name: str) -> Any:
    """Keras's layer by the same name; None where it has none."""
    return getattr(keras.layers, name.rpartition(".")[2], None)


def given(name: str, option: str, value: Any) -> dict[str, Any]:
    """The arguments of a constructor, one option with this value."""
    if value == "a table":
        value = [np.random.default_rng(0).normal(size=(31, 5))]
    sizes: dict[str, Any] = {"units": 5}
    if "Embedding" in name:
        sizes = {"input_dim": 31, "output_dim": 5}
        if option == "lora_alpha":
            sizes["lora_rank"] = 2
    if "Dropout" in name:
        sizes = {"rate": 0.3}
    return {**sizes, option: value}


OPTIONS = [
    (name, option, value)
    for name in NAMES
    if theirs(name) is not None
    for option, values in LAYERS[name].items()
    if option == "implementation" or option in catalog.options_of(theirs(name))
    for value in values
]


@pytest.mark.skipif(
    BACKEND != "torch",
    reason="the code that takes options is one for all backends, and others compile each case",
)
@pytest.mark.parametrize(("name", "option", "value"), OPTIONS, ids=str)
def test_each_option_of_keras_s_means_the_same(name: str, option: str, value: Any) -> None:
    """In evaluation: weights, outputs, losses, and what can be trained."""
    kind = name.rpartition(".")[2]
    random = np.random.default_rng(1)
    x: Any = random.normal(size=(3, 7, 4)).astype("f")
    if "Embedding" in name:
        x = random.integers(0, 7, size=(3, 9))
    shown, layers = [], []
    for source in (getattr(lapse.keras, kind), theirs(name)):
        keras.utils.set_random_seed(1)
        layer = quietly(lambda source=source: source(**given(name, option, value)))
        if "Cell" in name:
            layer.build((3, 4))
            states = [np.full((3, layer.units), 0.5, "f")] * (1 + (kind == "LSTMCell"))
            found = layer(x[:, 0], states)
        else:
            found = layer(x)
        if option.startswith("lora"):  # drawn after lapse drew a seed
            layer.set_weights(layers[0].get_weights() if layers else layer.get_weights())
            found = layer(x)
        layers.append(layer)
        shown.append(array([found, *layer.get_weights(), *layer.losses]))
    ours, other = layers
    rounding = TOLERANCE["bfloat16"] if value == "mixed_bfloat16" else 1e-6
    for one, wanted in zip(_leaves(shown[0]), _leaves(shown[1]), strict=True):
        assert one.dtype == wanted.dtype
        np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=rounding)
    assert [w.trainable for w in ours.weights] == [w.trainable for w in other.weights]
    if option == "name" and value:
        assert ours.name == value


def _leaves(nest: Any) -> list[np.ndarray]:
    if isinstance(nest, tuple):
        return [leaf for part in nest for leaf in _leaves(part)]
    return [nest]
