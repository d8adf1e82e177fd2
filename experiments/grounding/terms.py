"""Tries of the names, words and figures that an answer is watched for."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple


class Kind(Enum):
    """What a term is."""

    MODEL = auto()
    MAKE = auto()
    DETAIL = auto()
    """A place, a state: said of a named vehicle it must be its own."""
    SAID_NAME = auto()
    """A vehicle that the customer named and the inventory does not have."""
    FOREIGN = auto()
    """A vehicle of which nobody has spoken."""
    YEAR = auto()
    PRICE = auto()
    DISTANCE = auto()
    SAID_FIGURE = auto()
    """A figure of the customer, or of the application's prompt around the block."""
    DISTANCE_UNIT = auto()
    PESOS = auto()
    DOLLARS = auto()
    SCALE = auto()
    """Words that make a number another one: `mil`, `millones`."""
    SCALE_BEHIND = auto()
    """The same, if a number stands before: `palos`, `k`."""
    NUMERAL = auto()
    """Numbers in words."""
    WHERE = auto()
    """`en`, behind which places are."""


class Term(NamedTuple):
    """Something that may stand in an answer."""

    kind: Kind
    rows: int = 0
    """Vehicles that it belongs to, one bit each."""


@dataclass(eq=False, slots=True, repr=False)
class Node:
    """A place in a trie."""

    kind: Kind
    """Of the trie; terms below may have others where that is `FOREIGN`."""
    folded: bool
    """Whether the keys are small letters, and capitals count as such."""
    children: dict[str, "Node"] = field(default_factory=dict)
    term: Term | None = None
    rows: int = 0
    """Vehicles that some term from here on belongs to."""
    depth: int = 0

    def next(self, character: str) -> "Node | None":
        """Return the node behind a character."""
        return self.children.get(character.lower() if self.folded else character)

    def add(self, text: str, term: Term) -> None:
        """Add a term; the same text again adds its rows."""
        node = self
        node.rows |= term.rows
        for character in text.lower() if self.folded else text:
            found = node.children.get(character)
            if found is None:
                found = node.children[character] = Node(
                    self.kind, self.folded, depth=node.depth + 1
                )
            node = found
            node.rows |= term.rows
        if node.term is None:
            node.term = term
        else:
            node.term = Term(node.term.kind, node.term.rows | term.rows)


def trie(kind: Kind, terms: Iterable[tuple[str, Term]], *, folded: bool = True) -> Node:
    """Return a trie of texts and what they mean."""
    root = Node(kind, folded)
    for text, term in terms:
        root.add(text, term)
    return root


def groupings(number: int) -> Iterator[str]:
    """Yield a number as people write it: `1,450,000`, `1.450.000`, `1450000`."""
    yield f"{number:,}"
    yield f"{number:,}".replace(",", ".")
    yield str(number)
