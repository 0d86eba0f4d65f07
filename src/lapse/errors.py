"""The one error that lapse raises for a mistake in what it was given, and a warning."""


class LapseError(ValueError):
    """What was given, what is wrong with it, and what would be right, in one sentence."""


class PlainLoopWarning(RuntimeWarning):
    """A layer runs several times slower than it could; the message says why."""
