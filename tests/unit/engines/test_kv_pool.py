"""The ledger of KV cells agrees with a naive model of shared cells."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serve_app.engines.llama_cpp.kv import KvPool
from serve_app.engines.llama_cpp.prefix_cache import PrefixCache

N_CELLS, N_SEQUENCES, N_CTX = 60, 6, 30


class FakeMemory:
    """Sequences as lists of cell objects; a cell lives while a list holds it."""

    def __init__(self):
        self.cells = {i: [] for i in range(N_SEQUENCES)}

    def share(self, source, target, n_tokens):
        self.cells[target] = self.cells[source][:n_tokens]

    def cut(self, seq_id, n_tokens):
        del self.cells[seq_id][n_tokens:]

    def length(self, seq_id):
        return len(self.cells[seq_id])

    def used(self, seq_ids):
        return len({id(cell) for i in seq_ids for cell in self.cells[i]})


class PoolMachine(RuleBasedStateMachine):
    """Random sequences of what the scheduler does."""

    def __init__(self):
        super().__init__()
        self.memory = FakeMemory()
        self.pool = KvPool(self.memory, n_cells=N_CELLS, n_sequences=N_SEQUENCES, n_ctx=N_CTX)
        self.active: list[int] = []
        self.kept: list[int] = []

    @precondition(lambda self: self.pool.has_free_sequence)
    @rule()
    def acquire(self):
        self.active.append(self.pool.acquire())

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def grow(self, data):
        seq_id = data.draw(st.sampled_from(self.active))
        room = min(self.pool.free, N_CTX - self.memory.length(seq_id))
        n = data.draw(st.integers(0, min(room, 8)))
        self.memory.cells[seq_id] += [object() for _ in range(n)]
        self.pool.grew(seq_id, n)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def share(self, data):
        target = data.draw(st.sampled_from(self.active))
        source = data.draw(st.sampled_from(self.active + self.kept))
        n = self.memory.length(source)
        if source != target and n and not self.memory.length(target):
            self.pool.share(source, target, data.draw(st.integers(1, n)))

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def cut_or_resync(self, data):
        seq_id = data.draw(st.sampled_from(self.active))
        n = data.draw(st.integers(0, N_CTX))
        if data.draw(st.booleans()):
            self.pool.cut(seq_id, n)
        else:  # llama.cpp lost the end of it
            self.memory.cut(seq_id, n)
            assert self.pool.resync(seq_id) == self.memory.length(seq_id)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def retain(self, data):
        seq_id = data.draw(st.sampled_from(self.active))
        self.pool.retain(seq_id)
        self.active.remove(seq_id)
        self.kept.append(seq_id)

    @precondition(lambda self: self.active or self.kept)
    @rule(data=st.data())
    def release(self, data):
        seq_id = data.draw(st.sampled_from(self.active + self.kept))
        self.pool.release(seq_id)
        (self.active if seq_id in self.active else self.kept).remove(seq_id)

    @invariant()
    def counts_agree(self):
        assert self.pool.used == self.memory.used(range(N_SEQUENCES))
        assert self.pool.active == self.memory.used(self.active)
        assert self.pool.free == N_CELLS - self.pool.used


TestKvPool = PoolMachine.TestCase


def make_cache(max_entries=2):
    memory = FakeMemory()
    pool = KvPool(memory, n_cells=N_CELLS, n_sequences=N_SEQUENCES, n_ctx=N_CTX)

    def sequence(n):
        seq_id = pool.acquire()
        memory.cells[seq_id] = [object() for _ in range(n)]
        pool.grew(seq_id, n)
        return seq_id

    return pool, PrefixCache(pool, max_entries), sequence


def test_least_recently_used_prefix_goes_first():
    import numpy as np

    pool, cache, sequence = make_cache()
    cache.keep(sequence(3), [1, 2, 3])
    cache.keep(sequence(3), [4, 5, 6])
    assert cache.best(np.array([1, 2, 9], dtype=np.int32)).n_tokens == 2
    cache.keep(sequence(3), [7, 8, 9])
    assert cache.best(np.array([4, 5, 6], dtype=np.int32)).n_tokens == 0
    assert cache.best(np.array([1, 2, 3], dtype=np.int32)).n_tokens == 3
    cache.clear()
    assert pool.used == 0


def test_a_longer_sequence_replaces_its_own_start():
    pool, cache, sequence = make_cache()
    cache.keep(sequence(2), [1, 2])
    cache.keep(sequence(4), [1, 2, 3, 4])
    cache.keep(sequence(3), [1, 2, 3])
    assert pool.used == 4


def test_cache_of_size_zero_keeps_nothing():
    pool, cache, sequence = make_cache(max_entries=0)
    cache.keep(sequence(3), [1, 2, 3])
    assert pool.used == 0
    assert not cache.enabled


def test_prefixes_of_another_salt_are_not_shared():
    import numpy as np

    _, cache, sequence = make_cache()
    cache.keep(sequence(3), [1, 2, 3], salt="a")
    assert cache.best(np.array([1, 2, 3], dtype=np.int32), salt="b").n_tokens == 0
    cache.keep(sequence(3), [1, 2, 3], salt="b")
    assert cache.best(np.array([1, 2, 3], dtype=np.int32), salt="a").n_tokens == 3
