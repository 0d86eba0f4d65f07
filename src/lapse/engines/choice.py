"""Which engine runs a call: the list of engines, and one function that chooses one."""

from __future__ import annotations

import os
import warnings
from typing import NamedTuple

from lapse.core.errors import LapseError, PlainLoopWarning, outside
from lapse.engines.cpu import CPU
from lapse.engines.interface import Call, Engine
from lapse.engines.native import NATIVE
from lapse.engines.onnx import ONNX
from lapse.engines.reference import REFERENCE

ENGINES: tuple[Engine, ...] = (ONNX, NATIVE, CPU, REFERENCE)  # the last one runs any call
OPTIONS = ("auto", "native", "cpu", "reference")  # what users write
_BY_NAME = {engine.name: engine for engine in ENGINES}
_warned: set[str] = set()


def named(name: str) -> Engine:
    """The engine of a name."""
    return _BY_NAME[name]


def check_option(option: object) -> None:
    """Raises `LapseError` for an unknown `engine=`."""
    if option not in OPTIONS:
        raise LapseError(f"engine={option!r} is unknown; write one of {', '.join(OPTIONS)}.")


class Choice(NamedTuple):
    """The engine of a call, and the reason where the engine does not give it itself."""

    engine: Engine
    call: Call
    words: str | None = None
    unasked: bool = False  # whether the plain loop runs because nothing faster can

    @property
    def why(self) -> str:
        """Why this engine runs."""
        return self.words or self.engine.reason(self.call)


def engine_for(call: Call, option: str = "auto") -> Engine:
    """The engine that runs a call; takes and raises what `choose` does.

    Warns:
        PlainLoopWarning: if the plain loop runs without being asked for, once for each reason.
    """
    choice = choose(call, option)
    if choice.unasked:
        warn_of_plain_loop(choice.why)
    return choice.engine


def choose(call: Call, option: str = "auto") -> Choice:
    """The engine for a call, and why.

    Args:
        option: the engine that the layer asks for; with "auto", LAPSE_ENGINE can name one.

    Raises:
        LapseError: if the engine that is asked for can't run the call.
    """
    asked, words = asked_for(option)
    if words:
        engine = named(asked)
        obstacle = engine.obstacle(call)
        if obstacle is not None:
            raise_obstacle(words, engine.title, obstacle)
        return Choice(engine, call, f"{words} asks for it")
    obstacles, slower = [], None
    for engine in ENGINES[:-1]:
        if not engine.concerns(call):
            continue
        obstacle = engine.obstacle(call)
        if obstacle is not None:
            obstacles.append(f"{engine.title} can't run here: {obstacle}")
        elif engine.objection(call) is None:
            return Choice(engine, call)
        else:
            slower = slower or engine
    why = "; ".join(obstacles)
    if slower is not None:
        return Choice(slower, call, why)
    computes = not call.exporting and call.backend.device(call.x) != "meta"
    return Choice(ENGINES[-1], call, why, unasked=computes)


# torch.compile calls these three functions and does not trace them; see `backends.torch`.


def asked_for(option: str) -> tuple[str, str]:
    """The engine that a layer or the environment asks for, and the setting that asks for it."""
    if option != "auto":
        return option, f"engine={option!r}"
    asked = _environment()
    if asked is None or asked == "auto":
        return "auto", ""
    if asked not in OPTIONS:
        raise LapseError(f"LAPSE_ENGINE={asked} is unknown; write one of {', '.join(OPTIONS)}.")
    return asked, f"LAPSE_ENGINE={asked}"


def _environment() -> str | None:
    """LAPSE_ENGINE; None if it is not set.

    For a variable that is not set, `os.environ.get` raises and catches two exceptions, which takes
    7 % of a single step. So the dictionary behind `os.environ` is asked first, where there is one.
    """
    known = getattr(os.environ, "_data", None) if os.name == "posix" else None
    if known is not None and b"LAPSE_ENGINE" not in known:
        return None
    return os.environ.get("LAPSE_ENGINE")


def raise_obstacle(words: str, title: str, obstacle: str) -> None:
    """Raises the error for an engine that is asked for and can't run."""
    raise LapseError(
        f"{words} asks for {title}, which can't run here: {obstacle}; write engine='auto' to get "
        "an engine that can."
    )


def warn_of_plain_loop(why: str) -> None:
    """Warns once for each reason."""
    if why not in _warned:
        _warned.add(why)
        warnings.warn(
            f"{why}. The plain loop runs instead, several times slower; engine='reference' says "
            "that this is intended.",
            PlainLoopWarning,
            stacklevel=outside(),
        )
