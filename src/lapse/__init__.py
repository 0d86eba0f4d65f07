"""Recurrent layers for Keras and PyTorch with the published forms of dropout.

`lapse.keras` and `lapse.torch` hold the layers; this package itself needs NumPy alone.
"""

from lapse.errors import LapseError as LapseError
from lapse.errors import PlainLoopWarning as PlainLoopWarning
from lapse.explain import explain as explain
from lapse.forms import AwdLstm as AwdLstm
from lapse.forms import Dropout as Dropout
from lapse.forms import EmbeddingDropout as EmbeddingDropout
from lapse.forms import Form as Form
from lapse.forms import Gaps as Gaps
from lapse.forms import KerasDropout as KerasDropout
from lapse.forms import Locked as Locked
from lapse.forms import NoMemoryLoss as NoMemoryLoss
from lapse.forms import RnnDrop as RnnDrop
from lapse.forms import SkipSteps as SkipSteps
from lapse.forms import SpatialDropout as SpatialDropout
from lapse.forms import TimestepDropout as TimestepDropout
from lapse.forms import Variational as Variational
from lapse.forms import WeightDrop as WeightDrop
from lapse.forms import Zoneout as Zoneout
from lapse.noise import Term as Term
from lapse.noise import parse as parse
from lapse.predict import Prediction as Prediction
from lapse.predict import predict as predict

__version__ = "0.1.0"
