"""What earlier answers said: guesses for the next one, and what their grammar said on the way.

The answers of one fine-tuned model under one schema repeat themselves: the reply follows from the
intent, and most of it is the same text every time. So finished answers are kept as a tree of
tokens with counts. An answer that has begun like others is guessed to go on like them; one that has
left the tree looks up its last tokens among all of theirs (suffixes, as in SuffixDecoding, Oliaro
et al. 2024). Guesses are checked by the model like any others and change no answer.

A node of the tree is also a state of the grammar: what was allowed, forced or refused there stays
so for everybody who comes the same way, and need not be asked of llama.cpp again.

Nothing crosses tenants: each cache salt has trees of its own, one per grammar.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from serve_app.engines.llama_cpp.drafts import NO_DRAFT, Draft

_SUFFIXES = (8, 4)
"""Tokens that an answer's end must have in common with earlier ones, tried from long to short."""
_MAX_TOKENS = 1024
"""Tokens of one answer that are kept, from its start."""
_MAX_TREES = 256
_MIN_CHANCE = 0.05
_FIRST_RATES = (0.6, 0.8, 0.95)
"""What is believed at first of a continuation that was seen once, two or three times, and more."""
_OFTEN = 4
_CLEAR = 0.9
"""Share of the answers that must have gone one way for its outcome to say something in general."""
_WEIGHT = 0.02
"""Of one more token in the rates: an answer has many."""
_STRAY_WEIGHT = 0.1
_MAX_VERDICTS = 32
"""Tokens per node that are known to be allowed or refused, beside its branches."""


class Node:
    """A place in the tree: how many answers came through it, and what the grammar said here."""

    __slots__ = ("branches", "count", "ends", "forced", "verdicts")

    def __init__(self) -> None:
        self.count = 0
        self.branches: dict[int, Node] = {}
        """By next token; all of them were allowed here."""
        self.ends: bool | None = None
        """Whether the grammar lets the answer end here; None until somebody has asked."""
        self.forced: tuple[int, ...] | None = None
        """Tokens that it forces here; None until somebody has asked."""
        self.verdicts: dict[int, bool] = {}
        """What it said about other tokens here."""

    def allows(self, token: int) -> bool | None:
        """Return whether a token may come here, None if that is not known."""
        return True if token in self.branches else self.verdicts.get(token)

    def judge(self, token: int, *, allowed: bool) -> None:
        """Remember whether a token may come here."""
        if len(self.verdicts) < _MAX_VERDICTS:
            self.verdicts[token] = allowed


class AnswerTree:
    """The answers of one salt and grammar. Only the engine thread uses it."""

    def __init__(self) -> None:
        self.root = Node()
        self.n_nodes = 0
        self._by_suffix: dict[int, Node] = {}
        self._rates = list(_FIRST_RATES)
        """How often answers went on as nearly all had before them, by how many that were."""
        self._stray_rates = list(_FIRST_RATES)

    def add(self, tokens: Sequence[int]) -> None:
        """Take in a finished answer, and learn how well it could have been foretold."""
        node = self.root
        for at, token in enumerate(tokens[:_MAX_TOKENS], start=1):
            branch = node.branches.get(token)
            self._learn(node, branch)
            node.count += 1
            if branch is None:
                branch = node.branches[token] = Node()
                self.n_nodes += 1
                self._index(tokens, at, branch)
            node = branch
        node.count += 1
        for kind, first in enumerate(_FIRST_RATES):  # what is not tried is not given up for good
            self._stray_rates[kind] += _WEIGHT * (first - self._stray_rates[kind])

    def _learn(self, node: Node, went: Node | None) -> None:
        if node.branches:
            _, branch = _likeliest(node)
            if branch.count >= _CLEAR * node.count:
                kind = _class(branch)
                self._rates[kind] += _WEIGHT * ((branch is went) - self._rates[kind])

    def age(self) -> None:
        """Halve all counts, and forget what is left with none."""
        self._by_suffix.clear()
        self.n_nodes = 0
        self.root.count //= 2
        todo: list[tuple[Node, tuple[int, ...]]] = [(self.root, ())]
        while todo:
            node, before = todo.pop()
            for token, branch in list(node.branches.items()):
                branch.count //= 2
                if not branch.count:
                    del node.branches[token]
                    continue
                end = (*before, token)[-_SUFFIXES[0] :]
                self.n_nodes += 1
                self._index(end, len(end), branch)
                todo.append((branch, end))

    def like(self, tokens: Sequence[int]) -> Node | None:
        """Return a place whose last tokens are the same, as many as possible."""
        for length in _SUFFIXES:
            if len(tokens) >= length:
                node = self._by_suffix.get(hash(tuple(tokens[-length:])))
                if node is not None and node.branches:
                    return node
        return None

    def propose(self, start: Node, n: int, *, strays: bool, forces: bool = False) -> Draft:
        """Return at most `n` tokens behind a place, the likeliest at each step.

        Args:
            start: Where to begin.
            n: Bound on the length.
            strays: Whether the answer has only its last tokens in common with those there.
            forces: Whether the answer takes what the grammar forces without drawing it.
        """
        rates = self._stray_rates if strays else self._rates
        node, chance = start, 1.0
        tokens: list[int] = []
        chances: list[float] = []
        quiet: list[int] = []
        n_quiet = 0
        while node.branches and len(tokens) < n:
            token, branch = _likeliest(node)
            chance *= rates[_class(branch)] * branch.count / node.count
            if chance < _MIN_CHANCE:
                break
            if forces and branch.forced:
                n_quiet = len(branch.forced)
            if n_quiet:
                quiet.append(len(tokens))
                n_quiet -= 1
            tokens.append(token)
            chances.append(chance)
            node = branch
        if tokens and node.ends and not node.branches:
            # The last token is drawn from the row before it; its own would tell nothing.
            tokens.pop()
            chances.pop()
        return Draft("answers", tuple(tokens), tuple(chances), frozenset(quiet))

    def learn_from_stray(self, start: Node, draft: Draft, n_right: int) -> None:
        """Learn how a guess from last tokens turned out, where nearly all had gone one way.

        Args:
            start: Where it began.
            draft: What was guessed, as far as it was computed.
            n_right: How many of its first tokens were right.
        """
        node = start
        for at, token in enumerate(draft.tokens[: n_right + 1]):
            branch = node.branches.get(token)
            if branch is None:
                return
            if branch.count >= _CLEAR * node.count:
                kind = _class(branch)
                self._stray_rates[kind] += _STRAY_WEIGHT * (
                    (at < n_right) - self._stray_rates[kind]
                )
            node = branch

    def _index(self, tokens: Sequence[int], n: int, node: Node) -> None:
        for length in _SUFFIXES:
            if n >= length:
                # A hash is enough: a wrong place gives a wrong guess, no more.
                self._by_suffix[hash(tuple(tokens[n - length : n]))] = node


class Recall:
    """The guesses of one answer from earlier ones.

    Args:
        tree: Answers like the one that is expected.
        n_prompt: Tokens before the answer.
        forces: Whether the answer takes what its grammar forces without drawing it.
    """

    def __init__(self, tree: AnswerTree, n_prompt: int, *, forces: bool = False) -> None:
        self._tree = tree
        self._forces = forces
        self._n_prompt = self._n = n_prompt
        self._node: Node | None = tree.root
        self._start: Node | None = None
        self._strays = False
        self.rate = 1.0
        """Looking into the tree costs less than reckoning whether it is worth while."""

    def propose(self, tokens: list[int], n: int) -> Draft:
        """Return at most `n` tokens that may come next.

        Args:
            tokens: Prompt and answer so far.
            n: Bound on the length.
        """
        for token in tokens[self._n :]:
            self._node = self._node.branches.get(token) if self._node is not None else None
        self._n = len(tokens)
        self._start = self._node
        self._strays = self._node is None or not self._node.branches
        if self._strays:
            self._start = self._tree.like(tokens[self._n_prompt :])
        if self._start is None:
            return NO_DRAFT
        forces = self._forces and not self._strays
        return self._tree.propose(self._start, n, strays=self._strays, forces=forces)

    def record(self, draft: Draft, n_right: int) -> None:
        """Learn how the latest guess turned out, as far as it was computed."""
        if self._start is not None and self._strays:
            self._tree.learn_from_stray(self._start, draft, n_right)


class AnswerMemory:
    """Trees by salt and grammar, bounded together. Only the engine thread uses it.

    Args:
        max_tokens: Tokens in all trees; where answers share their start, it counts once.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._trees: OrderedDict[Hashable, AnswerTree] = OrderedDict()
        self.n_tokens = 0

    def tree(self, key: Hashable) -> AnswerTree:
        """Return the tree of a key, which then was used last."""
        tree = self._trees.get(key)
        if tree is None:
            tree = self._trees[key] = AnswerTree()
            while len(self._trees) > _MAX_TREES:
                self._drop()
        self._trees.move_to_end(key)
        return tree

    def add(self, key: Hashable, tokens: Sequence[int]) -> None:
        """Take in a finished answer; what was not used for longest makes room for it."""
        tree = self.tree(key)
        before = tree.n_nodes
        tree.add(tokens)
        self.n_tokens += tree.n_nodes - before
        while self.n_tokens > self._max_tokens:
            if len(self._trees) > 1:
                self._drop()
                continue
            before = tree.n_nodes
            tree.age()
            self.n_tokens += tree.n_nodes - before

    def _drop(self) -> None:
        _, tree = self._trees.popitem(last=False)
        self.n_tokens -= tree.n_nodes


def _likeliest(node: Node) -> tuple[int, Node]:
    if len(node.branches) == 1:
        return next(iter(node.branches.items()))
    return max(node.branches.items(), key=_count)


def _count(item: tuple[int, Node]) -> int:
    return item[1].count


def _class(node: Node) -> int:
    # Which of the rates counts: seen once, a few times, often.
    return 0 if node.count == 1 else 1 if node.count < _OFTEN else 2
