"""What can be wrong with the input of a statistic."""


class StatisticsError(ValueError):
    """A statistic was refused. `code` is stable and goes into reports and reason codes."""

    code = "STATISTICS_ERROR"


class InvalidStatistic(StatisticsError):
    """The numbers cannot come from any data: negative counts, NaN, a sum of squares too small."""

    code = "INVALID_STATISTIC"


class ZeroVariance(StatisticsError):
    """An arm has no spread, so no standard error: often a constant or a broken logger."""

    code = "ZERO_VARIANCE"


class ZeroBaseline(StatisticsError):
    """A relative effect was asked for, but the control value is zero or not told from zero."""

    code = "ZERO_BASELINE"


class TooFewUnits(StatisticsError):
    """The method needs more units than there are; the message says how many."""

    code = "TOO_FEW_UNITS"
