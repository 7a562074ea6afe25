"""Ends a run that has cost more general ability than it may."""

from lit_talr.callbacks.base import Budget
from lit_talr.utils.errors import check_in


class GeneralBudget(Budget):
    """Ends training where ``general/drop`` passes its budget by more than ``errors`` standard errors; needs ``GeneralScore`` or ``LMEval``.

    A low domain score ends nothing. A run that was ended stays so when it is resumed.

    Args:
        general_drop: How much the mean over the general suites may lose, in [0, 1].
        errors: By how many standard errors the drop must pass the budget, at least 0 and finite.

    Raises:
        ValueError: For a value out of range, and where neither callback comes before it.
    """

    measures = "general/drop"
    sources = "a `GeneralScore` or an `LMEval`"
    nan_exceeds = False  # where a suite has one item, the error is unknown

    def __init__(self, general_drop: float, errors: float = 2.0) -> None:
        check_in("general_drop", general_drop, "[0, 1]")
        super().__init__(general_drop, errors)
