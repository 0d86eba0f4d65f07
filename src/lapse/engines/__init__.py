"""The engines that run layers: which one runs a call, and why."""

from lapse.engines.choice import ENGINES as ENGINES
from lapse.engines.choice import Choice as Choice
from lapse.engines.choice import asked_for as asked_for
from lapse.engines.choice import check_option as check_option
from lapse.engines.choice import choose as choose
from lapse.engines.choice import engine_for as engine_for
from lapse.engines.choice import named as named
from lapse.engines.interface import Call as Call
from lapse.engines.interface import Framework as Framework
