"""TensorFlow rewrites the Python of what a tf.function calls; it has nothing to say of lapse's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from keras_support import BACKEND

PROGRAM = """
import keras, numpy as np, tensorflow as tf
import lapse.keras as ours
x = tf.constant(np.ones((3, 7, 5), "float32"))
layer = ours.LSTM(4, dropout=0.2, noise="s:.2@BTF>prev")
cell = ours.GRUCell(4, recurrent_dropout=0.2)
gaps = ours.Dropout(0.2, over="BT[3]")
table = ours.Embedding(31, 4, noise="emb:.2@BV")
table.build(); layer.build(x.shape); cell.build(x[:, 0].shape)
everything = [
    lambda: layer.draw_masks(3, 7),
    lambda: layer(x, masks=layer.draw_masks(3, 7, seed=1)),
    lambda: cell.draw_masks(3),
    lambda: layer(x, training=True),
    lambda: layer.call(x, training=True),
    lambda: cell.call(x[:, 0], [x[:, 0, :4]], training=True),
    lambda: gaps.call(x, training=True),
    lambda: table.call(tf.constant([[1, 2]]), training=True),
]
for one in everything:
    tf.function(one)()
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="AutoGraph is TensorFlow's")
def test_a_tf_function_with_lapse_inside_says_nothing(tmp_path: Path) -> None:
    program = tmp_path / "program.py"  # in a file, where TensorFlow finds its source
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "AutoGraph" in line or "lapse" in line]
    assert not said
