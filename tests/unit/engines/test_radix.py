"""The tree of token sequences agrees with a naive list of them."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve_app.engines.llama_cpp.radix import PUBLIC, PrefixTree, common_prefix

texts = st.lists(st.integers(0, 2), min_size=1, max_size=8)
salts = st.sampled_from(["", "a", "b"])


def array(tokens):
    return np.array(tokens, dtype=np.int32)


def common(a, b):
    return common_prefix(array(a), array(b))


class TreeMachine(RuleBasedStateMachine):
    """Sequences come, grow, are cut and go."""

    def __init__(self):
        super().__init__()
        self.tree = PrefixTree()
        self.pins = {}
        self.known = {}  # seq_id: (tokens, salt)
        self.next_id = 0

    @initialize(pins=st.lists(texts, max_size=2))
    def pin(self, pins):
        for tokens in pins:
            self.tree.grow(self.next_id, array(tokens), PUBLIC)
            self.pins[self.next_id] = tokens
            self.next_id += 1

    @rule(tokens=texts, salt=salts)
    def insert(self, tokens, salt):
        self.tree.grow(self.next_id, array(tokens), salt)
        self.known[self.next_id] = (tokens, salt)
        self.next_id += 1

    @precondition(lambda self: self.known)
    @rule(data=st.data(), more=texts)
    def grow(self, data, more):
        seq_id = data.draw(st.sampled_from(sorted(self.known)))
        tokens, salt = self.known[seq_id]
        self.tree.grow(seq_id, array(more), salt)
        self.known[seq_id] = (tokens + more, salt)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def cut(self, data):
        seq_id = data.draw(st.sampled_from(sorted(self.known)))
        tokens, salt = self.known[seq_id]
        n = data.draw(st.integers(0, len(tokens)))
        self.tree.cut(seq_id, n)
        if n:
            self.known[seq_id] = (tokens[:n], salt)
        else:
            del self.known[seq_id]

    def visible(self, seq_id, tokens, salt):
        """Return how much a prompt may share of a sequence: all if of its salt, else pins only."""
        if seq_id in self.pins:
            return common(self.pins[seq_id], tokens)
        other, other_salt = self.known[seq_id]
        n = common(other, tokens)
        if other_salt == salt:
            return n
        return max((min(n, common(pin, tokens)) for pin in self.pins.values()), default=0)

    @rule(tokens=texts, salt=salts)
    def walk_finds_every_sharer_and_nobody_else(self, tokens, salt):
        found = {}
        for step in self.tree.walk(array(tokens), salt):
            for seq_id in step.node.holders:
                found[seq_id] = step.n_tokens
        expected = {i: self.visible(i, tokens, salt) for i in [*self.known, *self.pins]}
        assert found == {i: n for i, n in expected.items() if n}

    @invariant()
    def every_node_is_a_run_of_its_holders_and_has_one(self):
        everything = {**{i: tokens for i, (tokens, _) in self.known.items()}, **self.pins}
        assert len(self.tree) == len(everything)
        seen = set()
        for seq_id, tokens in everything.items():
            assert self.tree.length(seq_id) == len(tokens)
            node = self.tree.end(seq_id)
            while node.parent is not None:
                assert len(node.tokens) > 0
                assert list(node.tokens) == tokens[node.start : node.end]
                assert node.start == node.parent.end
                assert seq_id in node.holders
                assert node.holders <= everything.keys()
                assert node.parent.children[node.salt, int(node.tokens[0])] is node
                assert node.used_at <= node.parent.used_at
                seen.add(id(node))
                node = node.parent
            root = node
        if everything:
            assert count_nodes(root) == len(seen)


def count_nodes(node):
    return sum(1 + count_nodes(child) for child in node.children.values())


TestPrefixTree = TreeMachine.TestCase
