import pytest

from experiments.intent_prior.table import PriorTable
from tests.unit.experiments.intent_prior.made_by_hand import made_by_hand


@pytest.fixture
def table() -> PriorTable:
    """The prior of `made_by_hand.WORDS`."""
    return made_by_hand()
