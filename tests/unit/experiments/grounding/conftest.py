"""An inventory with what is easily mixed up: alike names, places inside places, a foreign price."""

import pytest

from experiments.grounding.automaton import Automaton
from experiments.grounding.inventory import Inventory, read_inventory
from experiments.grounding.lexicon import offer, said
from experiments.grounding.state import State

PROMPT = """Eres OKLA. Abrimos a las 8:30.

Inventario:
- OK-1 | Toyota Corolla 2010 | RD$1,430,000 | 93,900 millas | Santo Domingo | disponible
- OK-2 | Toyota Corolla 2015 | RD$650,000 | 45,000 millas | Santo Domingo Este | vendido
- OK-3 | Kia K5 2014 | RD$655,000 | 81,300 millas | Moca | disponible
- OK-4 | Mazda Mazda 3 2019 | RD$855,000 | 11,300 millas | Baní | reservado
- OK-5 | Mitsubishi Montero Sport 2016 | US$15,500 | 61,300 millas | la capital | disponible
- OK-6 | Lexus RX 350 2021 | RD$2,730,000 | 33,800 millas | La Vega | disponible
"""


class Reader:
    """Reads texts with an automaton."""

    def __init__(self, inventory: Inventory, customer: tuple[str, ...] = ()) -> None:
        self.automaton = Automaton(offer(inventory), said(customer, inventory.around))

    def read(self, text: str) -> tuple[State | None, str]:
        """Return the state behind a text, and what was read of it."""
        state = self.automaton.start()
        for at, character in enumerate(text):
            following = self.automaton.step(state, character)
            if following is None:
                return None, text[:at]
            state = following
        return state, text

    def accepts(self, text: str) -> bool:
        """Whether a whole text may be said."""
        state, _ = self.read(text)
        return state is not None and self.automaton.may_end(state)


@pytest.fixture(scope="session")
def inventory() -> Inventory:
    found = read_inventory(PROMPT)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def reader(inventory: Inventory) -> Reader:
    return Reader(inventory)
