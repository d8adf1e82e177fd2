"""A radix tree of token sequences: who begins like whom, found in one walk along a prompt.

A node is a run of tokens; a sequence is a path from the root and is a *holder* of every node on it,
so a node lives exactly as long as somebody needs it. Paths of different salts part at the root, or
where a public path ends that both begin with: what one salt has asked, no other can notice.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
Salt = str | None
"""None is public: visible to every salt."""
PUBLIC: Final[Salt] = None


class Node:
    """A run of tokens that its holders have in common.

    Args:
        tokens: The run; empty for the root only.
        start: Position of its first token.
        salt: Who may see it.
        parent: None for the root only.
    """

    __slots__ = ("children", "holders", "parent", "salt", "start", "tokens", "used_at")

    def __init__(self, tokens: Tokens, start: int, salt: Salt, parent: "Node | None") -> None:
        self.tokens = tokens
        self.start = start
        self.salt = salt
        self.parent = parent
        self.children: dict[tuple[Salt, int], Node] = {}
        self.holders: set[int] = set()
        self.used_at = 0
        """When a sequence last began with it, on the tree's own clock; never later than its
        parent's."""

    @property
    def end(self) -> int:
        """Position after its last token."""
        return self.start + len(self.tokens)


class Step(NamedTuple):
    """A node on the way of a prompt."""

    node: Node
    n_tokens: int
    """Tokens that the prompt and the node's holders have in common from their start."""


class PrefixTree:
    """Sequences by their tokens. Each ends where a node ends."""

    def __init__(self) -> None:
        self._root = Node(np.zeros(0, dtype=np.int32), 0, PUBLIC, None)
        self._ends: dict[int, Node] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len(self._ends)

    def __contains__(self, seq_id: int) -> bool:
        return seq_id in self._ends

    def end(self, seq_id: int) -> Node:
        """Return the node where a sequence ends."""
        return self._ends[seq_id]

    def length(self, seq_id: int) -> int:
        """Return a sequence's length in tokens, 0 if it is not here."""
        node = self._ends.get(seq_id)
        return node.end if node else 0

    def walk(self, tokens: Tokens, salt: Salt) -> list[Step]:
        """Return the nodes that a prompt begins with; the last may be common in part only."""
        steps: list[Step] = []
        node, position = self._root, 0
        while position < len(tokens) and position == node.end:
            child = _child(node, int(tokens[position]), salt)
            if child is None:
                break
            position += common_prefix(child.tokens, tokens[position:])
            node = child
            steps.append(Step(node, position))
        return steps

    def grow(self, seq_id: int, tokens: Tokens, salt: Salt) -> None:
        """Add tokens to the end of a sequence, which may be new; its way counts as used."""
        node = self._ends.get(seq_id, self._root)
        position = 0
        while position < len(tokens):
            token = int(tokens[position])
            child = _child(node, token, salt)
            if child is None:
                child = Node(tokens[position:].copy(), node.end, salt, node)
                node.children[salt, token] = child
            else:
                n = common_prefix(child.tokens, tokens[position:])
                if n < len(child.tokens):
                    child = _split(child, n)
            child.holders.add(seq_id)
            position += len(child.tokens)
            node = child
        if node is not self._root:
            self._ends[seq_id] = node
            self._touch(node)

    def cut(self, seq_id: int, n_tokens: int) -> None:
        """Drop a sequence's tokens from position `n_tokens` on; with 0 it is gone."""
        node = self._ends.pop(seq_id)
        while node.parent is not None and node.start >= n_tokens:
            _leave(node, seq_id)
            node = node.parent
        if node.end > n_tokens:
            upper = _split(node, n_tokens - node.start)
            _leave(node, seq_id)
            node = upper
        if node is not self._root:
            self._ends[seq_id] = node

    def _touch(self, node: Node) -> None:
        self._clock += 1
        above: Node | None = node
        while above is not None:
            above.used_at = self._clock
            above = above.parent


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Return how many tokens two sequences have in common from their start."""
    n = min(len(a), len(b))
    differs = a[:n] != b[:n]
    return int(differs.argmax()) if differs.any() else n


def _child(node: Node, token: int, salt: Salt) -> Node | None:
    return node.children.get((PUBLIC, token)) or node.children.get((salt, token))


def _split(node: Node, n_tokens: int) -> Node:
    # The node becomes the lower part, so sequences that end in it need no change.
    assert node.parent is not None  # noqa: S101 (the root has no tokens to split)
    upper = Node(node.tokens[:n_tokens], node.start, node.salt, node.parent)
    upper.holders = set(node.holders)
    upper.used_at = node.used_at
    node.parent.children[node.salt, int(node.tokens[0])] = upper
    node.tokens = node.tokens[n_tokens:]
    node.start += n_tokens
    node.parent = upper
    upper.children[node.salt, int(node.tokens[0])] = node
    return upper


def _leave(node: Node, seq_id: int) -> None:
    node.holders.discard(seq_id)
    if not node.holders and node.parent is not None:
        del node.parent.children[node.salt, int(node.tokens[0])]
