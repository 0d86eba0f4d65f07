"""The code to paste builds the noise that is trained."""

import json
import os
import subprocess
import sys

import lapse
from lapse.compare.placements import PLACEMENTS
from lapse.core.noise import collect

# Reads {key: code} and prints {key: [[class, configuration] of each layer]}.
BUILD = """
import json, sys
import lapse
from lapse.keras import LSTM, Dropout, SpatialDropout1D, TimestepDropout

def layers(code):
    built = eval("[" + code.replace("UNITS", "5").replace("\\n", ",") + "]")
    return [[type(layer).__name__, layer.get_config()] for layer in built]

print(json.dumps({key: layers(code) for key, code in json.load(sys.stdin).items()}))
"""
IN_FRONT = {
    "Dropout": lapse.Dropout,
    "SpatialDropout1D": lapse.SpatialDropout,
    "TimestepDropout": lapse.TimestepDropout,
}


def built():
    done = subprocess.run(
        [sys.executable, "-c", BUILD],
        input=json.dumps({placement.key: placement.keras for placement in PLACEMENTS}),
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def noise_of(layers):
    """The terms of the noise that layers with these configurations have."""
    at = [name for name, _ in layers].index("LSTM")
    lstm = layers[at][1]
    noise = [lapse.KerasDropout(lstm["dropout"], lstm["recurrent_dropout"]), lstm["noise"]]
    noise += [IN_FRONT[name](config["rate"]) for name, config in layers[:at]]
    for name, config in layers[at + 1 :]:
        assert name == "Dropout"
        noise.append(f"y:{config['rate']}@BTF")
    return set(collect([one for one in noise if one]))


def test_the_code_to_paste_has_the_noise_of_its_placement():
    found = built()
    for placement in PLACEMENTS:
        assert noise_of(found[placement.key]) == set(collect(placement.noise)), placement.key
