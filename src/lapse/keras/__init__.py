"""Keras layers with dropout inside the recurrence, on the backends torch, JAX and TensorFlow."""

from lapse.keras.cells import GRUCell as GRUCell
from lapse.keras.cells import LSTMCell as LSTMCell
from lapse.keras.cells import SimpleRNNCell as SimpleRNNCell
from lapse.keras.convert import convert as convert
from lapse.keras.convert import to_native as to_native
from lapse.keras.dropout import Dropout as Dropout
from lapse.keras.dropout import SpatialDropout1D as SpatialDropout1D
from lapse.keras.dropout import TimestepDropout as TimestepDropout
from lapse.keras.embedding import Embedding as Embedding
from lapse.keras.layers import GRU as GRU
from lapse.keras.layers import LSTM as LSTM
from lapse.keras.layers import SimpleRNN as SimpleRNN
from lapse.keras.monte_carlo import mc_dropout as mc_dropout
