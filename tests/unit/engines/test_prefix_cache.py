"""What is kept, what is found again, and what goes first."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve_app.engines.llama_cpp.kv import KvPool
from serve_app.engines.llama_cpp.prefix_cache import Match, PrefixCache
from serve_app.engines.llama_cpp.radix import common_prefix
from tests.unit.engines.fake_memory import FakeMemory

N_CELLS, N_RUNNING, N_KEPT, N_CTX = 400, 3, 3, 120
PIN = [1] * 40


def array(tokens):
    return np.array(tokens, dtype=np.int32)


class Workbench:
    """A cache over a memory whose cells know their token."""

    def __init__(self, n_kept=N_KEPT):
        n_sequences = N_RUNNING + n_kept + 1
        self.memory = FakeMemory(n_sequences)
        self.pool = KvPool(self.memory, n_cells=N_CELLS, n_sequences=n_sequences, n_ctx=N_CTX)
        self.cache = PrefixCache(self.pool, n_kept)

    def compute(self, seq_id, tokens):
        self.memory.cells[seq_id] += [[token] for token in tokens]
        self.pool.grew(seq_id, len(tokens))

    def tokens(self, seq_id):
        return [cell[0] for cell in self.memory.cells[seq_id]]

    def pin(self, tokens):
        seq_id = self.pool.acquire()
        self.compute(seq_id, tokens)
        self.cache.pin(seq_id, array(tokens))

    def start(self, tokens, salt=""):
        """Share what can be shared, as a new job does."""
        seq_id = self.pool.acquire()
        self.cache.announce(seq_id, array(tokens), salt=salt)
        match = self.cache.best(array(tokens[:-1]), salt=salt)
        if match.n_tokens:
            self.pool.share(match.seq_id, seq_id, match.n_tokens)
        return seq_id

    def serve(self, tokens, salt=""):
        """Compute a request of its own and keep it; return how much of it was shared."""
        seq_id = self.start(tokens, salt)
        shared = self.pool.length(seq_id)
        self.compute(seq_id, tokens[shared:])
        self.cache.keep(seq_id, tokens, salt=salt)
        return shared

    def found(self, tokens, salt=""):
        return self.cache.best(array(tokens), salt=salt).n_tokens


runs = st.integers(1, 30)
prompts = st.lists(st.tuples(st.integers(0, 2), runs), min_size=1, max_size=3).map(
    lambda parts: [token for token, n in parts for _ in range(n)]
)
salts = st.sampled_from(["", "a"])


class CacheMachine(RuleBasedStateMachine):
    """Requests of two tenants come and go while memory is short."""

    def __init__(self):
        super().__init__()
        self.bench = Workbench()
        self.pool, self.cache = self.bench.pool, self.bench.cache
        self.running = {}  # seq_id: (announced tokens, salt)
        self.kept = {}
        self.pinned = {}

    @initialize(pinned=st.booleans())
    def pin(self, pinned):
        if pinned:
            self.bench.pin(PIN)
            self.pinned = {i: (PIN, None) for i in range(10) if i in self.cache._pinned}

    @precondition(lambda self: len(self.running) < N_RUNNING)
    @rule(tokens=prompts, salt=salts, on_pin=st.booleans())
    def start(self, tokens, salt, on_pin):
        tokens = (PIN if on_pin else []) + tokens
        self.running[self.bench.start(tokens, salt)] = (tokens, salt)
        self.forget_evicted()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def compute(self, data):
        seq_id = data.draw(st.sampled_from(sorted(self.running)))
        tokens, _ = self.running[seq_id]
        done = self.pool.length(seq_id)
        pending = [*tokens[done:], 2, 1]  # the answer goes on with tokens nobody announced
        n = data.draw(st.integers(1, len(pending)))
        if done + n > N_CTX or not self.cache.make_room(n):
            return
        self.bench.compute(seq_id, pending[:n])
        self.forget_evicted()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), keep=st.booleans())
    def leave(self, data, keep):
        seq_id = data.draw(st.sampled_from(sorted(self.running)))
        _, salt = self.running.pop(seq_id)
        tokens = self.bench.tokens(seq_id)
        if not keep:
            self.cache.drop(seq_id)
            return
        self.cache.keep(seq_id, tokens, salt=salt)
        self.kept[seq_id] = (tokens, salt)
        self.forget_evicted()
        assert not tokens or self.bench.found(tokens, salt) == len(tokens)

    @rule(n=st.integers(1, N_CELLS), tokens=prompts, salt=salts)
    def make_room_but_not_at_the_cost_of_a_match(self, n, tokens, salt):
        match = self.cache.best(array(tokens), salt=salt)
        enough = self.cache.make_room(n, but=match)
        assert enough is (self.pool.free >= n)
        if match.seq_id is not None:
            assert self.pool.length(match.seq_id) >= match.n_tokens
            held = self.pool.inactive(match.seq_id, match.n_tokens)
            # all that is left is in use, or what the match needs
            assert enough or self.pool.used == self.pool.active + held
        else:
            assert enough or self.pool.used == self.pool.active
        self.forget_evicted()

    @rule()
    def free_sequence(self):
        n_kept = len(self.cache._kept)
        assert self.cache.free_sequence() is bool(n_kept)
        assert len(self.cache._kept) == max(0, n_kept - 1)
        self.forget_evicted()

    @rule(tokens=prompts, salt=salts)
    def best_is_the_longest_that_is_computed(self, tokens, salt):
        def shareable(seq_id, other_salt):
            n = common_prefix(array(self.bench.tokens(seq_id)), array(tokens))
            if other_salt in (salt, None):
                return n
            return min(n, common_prefix(array(PIN), array(tokens))) if self.pinned else 0

        everything = {**self.running, **self.kept, **self.pinned}
        announced = {
            i: min(shareable(i, other), len(known)) for i, (known, other) in everything.items()
        }
        assert self.bench.found(tokens, salt) == max(announced.values(), default=0)

    def forget_evicted(self):
        self.kept = {
            i: (tokens[: self.pool.length(i)], salt)
            for i, (tokens, salt) in self.kept.items()
            if i in self.cache._kept
        }

    @invariant()
    def memory_and_ledger_agree(self):
        everything = {**self.running, **self.kept, **self.pinned}
        assert self.pool.used == self.bench.memory.used(everything)
        assert self.pool.active == self.bench.memory.used([*self.running, *self.pinned])
        assert self.cache._kept == self.kept.keys()
        assert len(self.kept) <= N_KEPT
        for seq_id, (tokens, _) in {**self.kept, **self.pinned}.items():
            assert self.bench.tokens(seq_id) == tokens
        for seq_id, (tokens, salt) in self.kept.items():
            for other, (longer, other_salt) in {**self.kept, **self.pinned}.items():
                if other != seq_id and other_salt in (salt, None):
                    assert tokens != longer[: len(tokens)]


TestPrefixCache = CacheMachine.TestCase


def test_shared_start_outlives_the_conversations_that_used_it():
    bench = Workbench()
    system = [7] * 50
    for question in ([1] * 60, [2] * 60, [3] * 60):
        bench.serve(system + question)
    bench.serve([9] * 40)
    # conversations go one after another, the newest last; then the start is all that is left
    assert bench.cache.make_room(N_CELLS - 90)
    assert bench.found(system + [1] * 60) == 50
    assert bench.found([9] * 40) == 40
    assert bench.pool.used == 90
    assert len(bench.cache._kept) == 2


def test_conversation_is_cut_from_its_end_and_only_as_far_as_needed():
    bench = Workbench()
    bench.serve([1] * 100)
    assert bench.cache.make_room(N_CELLS - 60)
    assert bench.found([1] * 100) == 60
    assert bench.cache.n_evicted_tokens == 40


def test_least_recently_used_goes_first():
    bench = Workbench()
    for token in (1, 2, 3):
        bench.serve([token] * 40)
    bench.serve([1] * 40 + [5])
    assert bench.cache.evict()
    assert [bench.found([token] * 40) for token in (1, 2, 3)] == [40, 0, 40]


def test_when_ids_run_out_the_sequence_goes_that_loses_least():
    bench = Workbench(n_kept=2)
    system = [7] * 50
    bench.serve(system + [1] * 10)
    bench.serve(system + [2] * 10)
    bench.serve([3] * 10)
    assert bench.found(system) == 50
    assert bench.found(system + [1] * 10) == 50
    assert bench.found([3] * 10) == 10


def test_a_longer_sequence_replaces_its_own_start():
    bench = Workbench()
    bench.serve([1, 2])
    bench.serve([1, 2, 3, 4])
    bench.serve([1, 2, 3])
    assert len(bench.cache._kept) == 1
    assert bench.pool.used == 4


def test_pinned_tokens_are_never_evicted_and_serve_every_salt():
    bench = Workbench()
    bench.pin(PIN)
    assert bench.serve([*PIN, 2, 3], "a") == 40
    assert bench.serve([*PIN, 2, 4], "b") == 40  # and not the 41 that "a" has computed
    assert not bench.cache.make_room(N_CELLS)
    bench.cache.clear()
    assert bench.pool.used == bench.pool.active == 40
    assert bench.found(PIN, "c") == 40


def test_pinning_after_a_request_is_refused():
    bench = Workbench()
    bench.serve([1, 2])
    with pytest.raises(ValueError, match="before the first request"):
        bench.pin(PIN)


def test_running_sequence_is_shared_as_far_as_it_is_computed():
    bench = Workbench()
    leader = bench.start([1] * 60)
    bench.compute(leader, [1] * 20)
    assert bench.cache.best(array([1] * 50)) == Match(leader, 20)
    assert next(bench.cache.sharers(array([1] * 50))) == (50, {leader})


def test_cache_of_size_zero_keeps_nothing():
    bench = Workbench(n_kept=0)
    seq_id = bench.pool.acquire()
    bench.compute(seq_id, [1, 2, 3])
    bench.cache.keep(seq_id, [1, 2, 3])
    assert bench.pool.used == 0
    assert not bench.cache.enabled


def test_prefixes_of_another_salt_are_not_shared():
    bench = Workbench()
    bench.serve([1, 2, 3], "a")
    assert bench.found([1, 2, 3], "b") == 0
    bench.serve([1, 2, 3], "b")
    assert bench.found([1, 2, 3], "a") == 3
