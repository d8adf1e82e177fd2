"""The automaton that reads an answer character by character and refuses what is not in the rows.

It follows which rows the text may still be about. A figure narrows them to the rows that have it;
one that no such row has is refused at its first wrong digit. A name that comes after another one
opens them again. So name, year and price that are said together belong to one row.
"""

from collections.abc import Iterable

from experiments.grounding.lexicon import Offer, Said, periods, words
from experiments.grounding.state import Before, State, outside, with_make, with_model
from experiments.grounding.terms import Kind, Node, Term

_NUMBERS = (Before.PRICE, Before.NUMBER, Before.NUMERAL)
_FIGURES = frozenset({Kind.YEAR, Kind.PRICE, Kind.DISTANCE, Kind.SAID_FIGURE})
_VOUCHING = _FIGURES | {Kind.MODEL, Kind.MAKE, Kind.DETAIL, Kind.SAID_NAME}
"""What digits may be part of, and the words of a longer name."""
_NAMES = (Kind.MODEL, Kind.SAID_NAME, Kind.FOREIGN)
_LONGEST = 64
"""More characters than any term has."""
_TELLING = 3
"""From so many letters on it is taken for granted which word has begun ..."""
_TELLING_PLACE = 2
"""... and from so many behind an `en`."""


class Automaton:
    """Reads answers of one request.

    Args:
        offer: The inventory.
        said: What may be repeated.
    """

    def __init__(self, offer: Offer, said: Said) -> None:
        self._offer = offer
        self._said = said
        self._details = next(root for root in offer.names if root.kind is Kind.DETAIL)
        self._roots = (*offer.names, said.names, *words())

    def start(self) -> State:
        """Return the state before the first character."""
        return State(self._offer.everything)

    def next_text(self, state: State) -> State:
        """Return the state before another text of the same answer, about the same vehicles."""
        return State(state.rows or self._offer.everything)

    def step(self, state: State, character: str) -> State | None:
        """Return the state behind a character, None if it must not come."""
        if character.isalnum() or character == "_":
            if state.in_word and not (state.words or state.figures or state.longer):
                # Inside an ordinary word.
                return None if character.isnumeric() or state.must else state
            return self._in_word(state, character)
        if not (state.in_word or state.words or state.figures or state.longer):
            return self._between(state, character)
        return self._behind_word(state, character)

    def may_end(self, state: State) -> bool:
        """Whether the text may end here."""
        return self.step(state, "\n") is not None

    def to_end(self, state: State) -> int:
        """Return the least number of characters after which the text may end."""
        if self.may_end(state):
            return 0
        if not state.must:
            return 1  # a letter more, and it is another word
        figures = state.figures if state.in_word else self._figures(state)
        front = [n for n in (*figures, *state.longer, *state.words) if self._vouches(n, state)]
        for distance in range(1, _LONGEST):
            front = [
                child
                for node in front
                for child in node.children.values()
                if self._is_open(child, state) and self._vouches(child, state)
            ]
            if any(self._completes(n, state) for n in front):
                return distance
        return _LONGEST

    def _completes(self, node: Node, state: State) -> bool:
        """Whether a figure or name is complete and right there."""
        if node.term is None or node.kind is Kind.SAID_FIGURE:
            return node.term is not None
        if node.kind in _FIGURES:
            return bool(node.term.rows & self._scope(node.kind, state))
        return self._apply(node.term, state) is not None

    def _in_word(self, state: State, character: str) -> State | None:
        is_digit = character.isnumeric()
        longer = self._advance(state.longer, character, state)
        if state.waiting is not None and not longer:
            applied = self._apply(state.waiting, state._replace(waiting=None))
            if applied is None:
                return None
            state = applied
        found = self._advance(state.words, character, state)
        must = state.must or is_digit
        is_capital = state.is_capital if state.in_word else character.isupper()
        if state.in_word:
            figures = self._advance(state.figures, character, state)
        else:
            # A sign of currency has been written: a figure follows, no name.
            roots = () if state.must else self._advance(self._roots, character, state)
            if state.before is Before.MAKE and (is_digit or character.isupper()):
                # What begins with a capital behind a make is one of its models.
                must = True
                roots = tuple(n for n in roots if n.kind in _NAMES)
            found += roots
            figures = self._advance(self._figures(state), character, state) if is_digit else ()
        if must and not figures and not any(self._vouches(n, state) for n in (*longer, *found)):
            return None
        state = state._replace(
            in_word=True,
            is_capital=is_capital,
            must=must,
            words=found,
            figures=figures,
            longer=longer,
        )
        return None if self._is_refused(state) else state

    def _is_refused(self, state: State) -> bool:
        """Whether a term that just became complete is wrong, and no longer one could be right.

        It is refused at its last letter, not behind it: there any letter could still follow.
        """
        nodes = (*state.longer, *state.words)
        for node in nodes:
            if node.term is not None:
                return self._apply(node.term, state) is None and not any(
                    other.children
                    and (other is node if node.kind is Kind.SCALE else self._vouches(other, state))
                    for other in nodes
                )
        return False

    def _behind_word(self, state: State, character: str) -> State | None:
        nodes = (*state.longer, *state.words)
        complete = next((node for node in nodes if node.term is not None), None)
        if state.figures and (complete is None or not self._completes(complete, state)):
            behind = self._behind_figure(state, character)
            if behind is not None:
                return behind
        longer = self._advance(state.longer, character, state)
        found = self._advance(state.words, character, state)
        vouched = tuple(n for n in (*longer, *found) if self._vouches(n, state))
        if state.must and complete is None and not vouched:
            return None
        waiting = state.waiting
        if complete in state.longer:
            waiting = None  # the longer name has come about
        if waiting is not None and (complete is not None or not longer):
            applied = self._apply(waiting, state._replace(waiting=None))
            if applied is None:
                return None
            state, waiting = applied, None
        elif state.in_word and complete is None and not _goes_on_behind_make(state, found):
            state = state._replace(before=Before.TEXT)
        bare = outside(state)
        if complete is not None and complete.term is not None:
            longer += tuple(n for n in found if n.kind is Kind.FOREIGN or n in vouched)
            if longer:
                return bare._replace(waiting=complete.term, longer=longer)
            applied = self._apply(complete.term, bare)
            return None if applied is None else self._between(applied, character)
        if longer or found:
            return bare._replace(waiting=waiting, longer=longer, words=found, must=state.must)
        return self._between(bare, character)

    def _behind_figure(self, state: State, character: str) -> State | None:
        figures = self._advance(state.figures, character, state)
        if figures:
            return state._replace(figures=figures, words=(), longer=(), in_word=True, must=True)
        finished = [
            node.term
            for node in state.figures
            if node.term is not None and self._completes(node, state)
        ]
        if not finished:
            return None
        return self._between(self._with_figure(finished, state), character)

    def offers_figure(self, state: State) -> bool:
        """Whether a figure may begin here."""
        return not state.in_word and any(
            self._is_open(child, state)
            for root in self._figures(state)
            for child in root.children.values()
        )

    def is_in_figure(self, state: State) -> bool:
        """Whether the text ends inside a figure, just behind one, or in a name that has one."""
        return state.must or state.before in (Before.PRICE, Before.NUMBER)

    def offers_detail(self, state: State, text: str) -> bool:
        """Whether a text begins with a detail of some row, and the vehicles named have others."""
        if state.must or state.in_word or not state.is_named:
            return False  # behind a sign of currency, only its price can come
        if not state.rows & self._details.rows:
            return False
        node: Node | None = self._details
        for character in text:
            node = node.next(character) if node is not None else None
        return node is not None and node.depth >= self._telling(state)

    def is_in_detail(self, state: State) -> bool:
        """Whether the text ends inside a detail of the vehicle that was named."""
        return any(
            node.kind is Kind.DETAIL and self._vouches(node, state)
            for node in (*state.longer, *state.words)
        )

    def has_detail(self, state: State) -> bool:
        """Whether a detail of the vehicle that was named has just become complete."""
        return any(
            node.kind is Kind.DETAIL and node.term is not None and self._vouches(node, state)
            for node in (*state.longer, *state.words)
        )

    @staticmethod
    def _telling(state: State) -> int:
        return _TELLING_PLACE if state.before is Before.WHERE else _TELLING

    def is_astray(self, state: State) -> bool:
        """Whether the text has begun another vehicle's detail, a place mostly.

        It would be refused at its last letter; where the token before it is drawn, it is not too
        late for another word.
        """
        nodes = (*state.longer, *state.words)
        return (
            state.in_word
            and (state.is_capital or state.before is Before.WHERE)
            and state.is_named
            and any(n.kind is Kind.DETAIL and n.depth >= self._telling(state) for n in nodes)
            and not any(self._vouches(node, state) for node in nodes)
        )

    def may_begin(self, state: State, begun: bytes) -> bool:
        """Whether some character of which these are the first bytes may come.

        Elsewhere than inside a figure or a name with digits, nearly all may.
        """
        return not state.must or self.goes_on(state, begun)

    def goes_on(self, state: State, begun: bytes) -> bool:
        """Whether what has been begun can go on with a character of which these are the bytes."""
        return any(
            character.encode().startswith(begun)
            for node in (*state.figures, *state.longer, *state.words)
            for character in node.children
        )

    def _between(self, state: State, character: str) -> State | None:
        if character == " " and state.must:
            # Behind a sign of currency: one space at most. More of them would put off the price,
            # for ever where a model wants a figure that is refused.
            return None if state.is_spaced else state._replace(is_spaced=True)
        if character == " ":
            return state._replace(before=Before.TEXT) if state.before is Before.GLUED else state
        if state.must:
            return None
        if character == "$":
            # A price follows, or the sign may not stand.
            before = Before.DOLLARS if state.before is Before.DOLLARS else Before.PESOS
            state = state._replace(before=before, in_word=False, must=True)
            return state if self.offers_figure(state) else None
        if character == "%" and state.before in _NUMBERS:
            return None
        if state.before in (Before.PRICE, Before.NUMBER) and character in ".,:/-'":
            return state._replace(before=Before.GLUED)
        return state if state.before is Before.TEXT else state._replace(before=Before.TEXT)

    def _figures(self, state: State) -> tuple[Node, ...]:
        """Return the figures that may begin here."""
        offer, said = self._offer, self._said
        early = said.early if not state.is_named else {}
        match state.before:
            case Before.GLUED:
                return ()
            case Before.DOLLARS:
                found = [offer.prices["USD"], early.get("USD")]
            case Before.PESOS:
                found = [offer.prices["DOP"], early.get("DOP")]
            case _:
                found = [offer.distances, said.anywhere, early.get("DOP")]
                # Once it is said, the year is no answer to how far it was driven.
                found += [] if state.is_dated else [offer.years]
                found += [] if state.is_named else [periods()]
        return tuple(node for node in found if node is not None)

    def _with_figure(self, finished: list[Term], state: State) -> State:
        is_price = any(term.kind is Kind.PRICE for term in finished)
        bare = outside(state)._replace(before=Before.PRICE if is_price else Before.NUMBER)
        if any(term.kind is Kind.SAID_FIGURE for term in finished):
            return bare
        rows = 0
        for term in finished:
            rows |= term.rows & self._scope(term.kind, state)
        is_dated = state.is_dated or any(term.kind is Kind.YEAR for term in finished)
        return bare._replace(rows=rows, is_dated=is_dated)

    def _scope(self, kind: Kind, state: State) -> int:
        if kind is Kind.YEAR and state.before is Before.MODEL:
            return state.again or state.rows
        return state.rows

    def _is_open(self, node: Node, state: State) -> bool:
        """Whether something right may lie behind a place in a trie."""
        match node.kind:
            case Kind.YEAR | Kind.PRICE | Kind.DISTANCE:
                return bool(node.rows & self._scope(node.kind, state))
            case _:
                return True

    def _vouches(self, node: Node, state: State) -> bool:
        """Whether a place in a trie justifies digits, or waiting for a longer name."""
        match node.kind:
            case Kind.MODEL:
                rows = state.makes if state.before is Before.MAKE else self._offer.everything
                return bool(node.rows & (rows if state.is_named else rows & state.rows))
            case Kind.DETAIL if state.is_named:
                return bool(node.rows & state.rows)
            case _:
                return node.kind in _VOUCHING

    def _advance(self, nodes: Iterable[Node], character: str, state: State) -> tuple[Node, ...]:
        found = []
        for node in nodes:
            child = node.next(character)
            if child is not None and self._is_open(child, state):
                found.append(child)
        return tuple(found)

    def _apply(self, term: Term, state: State) -> State | None:
        """Return the state behind a complete term, None if it is wrong here."""
        before = state.before
        match term.kind:
            case Kind.MODEL:
                return with_model(term.rows, state)
            case Kind.MAKE:
                return with_make(term.rows, state)
            case Kind.DETAIL:
                if not state.is_named:
                    return state._replace(before=Before.TEXT)
                rows = state.rows & term.rows
                return state._replace(rows=rows, before=Before.TEXT) if rows else None
            case Kind.SAID_NAME:
                return state._replace(rows=0, again=0, is_named=True, before=Before.TEXT)
            case Kind.FOREIGN | Kind.SCALE:
                return None
            case Kind.SCALE_BEHIND | Kind.DISTANCE_UNIT if before in _NUMBERS:
                return None
            case Kind.PESOS if before in (Before.NUMBER, Before.NUMERAL):
                return None
            case Kind.DOLLARS if before in _NUMBERS:
                return None
            case Kind.PESOS:
                return state._replace(before=Before.PESOS)
            case Kind.DOLLARS:
                return state._replace(before=Before.DOLLARS)
            case Kind.NUMERAL:
                return state._replace(before=Before.NUMERAL)
            case Kind.WHERE:
                return state._replace(before=Before.WHERE)
            case _:
                return state._replace(before=Before.TEXT)


def _goes_on_behind_make(state: State, words: tuple[Node, ...]) -> bool:
    return state.before is Before.MAKE and any(node.kind is Kind.MODEL for node in words)
