"""The one error that lapse raises for a mistake in what it was given."""


class LapseError(ValueError):
    """What was given, what is wrong with it, and what would be right, in one sentence."""
