"""Recurrent layers for Keras and PyTorch with the published forms of dropout.

`lapse.keras` and `lapse.torch` hold the layers; this package itself needs NumPy alone.
"""

from lapse.core.errors import LapseError as LapseError
from lapse.core.errors import PlainLoopWarning as PlainLoopWarning
from lapse.core.forms import AwdLstm as AwdLstm
from lapse.core.forms import Dropout as Dropout
from lapse.core.forms import EmbeddingDropout as EmbeddingDropout
from lapse.core.forms import Form as Form
from lapse.core.forms import Gaps as Gaps
from lapse.core.forms import KerasDropout as KerasDropout
from lapse.core.forms import Locked as Locked
from lapse.core.forms import NoMemoryLoss as NoMemoryLoss
from lapse.core.forms import RnnDrop as RnnDrop
from lapse.core.forms import SkipSteps as SkipSteps
from lapse.core.forms import SpatialDropout as SpatialDropout
from lapse.core.forms import TimestepDropout as TimestepDropout
from lapse.core.forms import Variational as Variational
from lapse.core.forms import WeightDrop as WeightDrop
from lapse.core.forms import Zoneout as Zoneout
from lapse.core.masks import Masks as Masks
from lapse.core.noise import Term as Term
from lapse.core.noise import parse as parse
from lapse.explain import explain as explain
from lapse.predict import Prediction as Prediction
from lapse.predict import predict as predict

__version__ = "0.1.0"
