"""How far an answer has come, in the eyes of the automaton."""

from enum import Enum, auto
from typing import NamedTuple

from experiments.grounding.terms import Node, Term


class Before(Enum):
    """What stands directly before the next word, with a space between them at most."""

    TEXT = auto()
    MODEL = auto()
    MAKE = auto()
    PRICE = auto()
    NUMBER = auto()
    NUMERAL = auto()
    WHERE = auto()
    """`en`: a place may follow."""
    GLUED = auto()
    """A number and a point, a comma: one more digit would make another number of it."""
    PESOS = auto()
    """A sign or code of this currency: the price must follow, if any figure does."""
    DOLLARS = auto()


class State(NamedTuple):
    """How far an answer has come."""

    rows: int
    """Vehicles that the text may be about, one bit each."""
    is_named: bool = False
    """Whether a vehicle has been named, so that figures are taken for its own."""
    again: int = 0
    """Vehicles of which the year may be that follows a repeated name."""
    is_dated: bool = False
    """Whether its year has been said."""
    makes: int = 0
    """Vehicles of the make that stands before."""
    before: Before = Before.TEXT
    in_word: bool = False
    is_capital: bool = False
    """Whether the word began with one."""
    must: bool = False
    """Whether what has been begun is right in its full length only."""
    is_spaced: bool = False
    """Whether a space stands between a sign of currency and its price."""
    words: tuple[Node, ...] = ()
    """Terms that the text may be inside of, the one that began first at the front."""
    figures: tuple[Node, ...] = ()
    waiting: Term | None = None
    """A name that is complete, unless it turns out to be the front part of a longer one."""
    longer: tuple[Node, ...] = ()
    """Those longer ones."""


def outside(state: State) -> State:
    """Return the state behind whatever was being read."""
    return state._replace(
        in_word=False, must=False, is_spaced=False, words=(), figures=(), longer=(), waiting=None
    )


def with_model(rows: int, state: State) -> State | None:
    """Return the state behind a model that the rows have, None if it fits nothing said so far."""
    if state.before is Before.MAKE:
        rows &= state.makes
    if not state.is_named:
        rows &= state.rows
    kept = state.rows & rows
    if not rows:
        return None
    return state._replace(
        rows=kept or rows, again=rows, is_named=True, is_dated=False, before=Before.MODEL
    )


def with_make(rows: int, state: State) -> State | None:
    """Return the state behind a make that the rows have, None if it fits no figure said."""
    makes = rows if state.is_named else rows & state.rows
    if not makes:
        return None
    kept = state.rows & makes
    return state._replace(
        rows=kept or makes,
        again=0,
        makes=makes,
        is_named=True,
        is_dated=False,
        before=Before.MAKE,
    )
