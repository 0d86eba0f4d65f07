"""PyTorch modules with noise: `LSTM`, `GRU`, `RNN`, and `Embedding`."""

from lapse.torch.convert import convert as convert
from lapse.torch.convert import to_native as to_native
from lapse.torch.embedding import Embedding as Embedding
from lapse.torch.modules import GRU as GRU
from lapse.torch.modules import LSTM as LSTM
from lapse.torch.modules import RNN as RNN
from lapse.torch.monte_carlo import mc_dropout as mc_dropout
