"""What a program finds wrong with a log or with its own state, alike in every process."""


class InvariantBroken(Exception):  # noqa: N818 - a verdict on the program or its log, not an error of a caller
    """Something that is always true is not; nothing may be published or stored from this state."""


class UnknownMarketError(ValueError):
    """An event is of a market that is not known where it is read."""


class MarketsUnknownError(Exception):
    """The output of shards cannot be read before their leaders have published their markets."""
