"""The ledger of KV cells agrees with a naive model of shared cells."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serve_app.engines.llama_cpp.kv import KvPool
from tests.unit.engines.fake_memory import FakeMemory

N_CELLS, N_SEQUENCES, N_CTX = 60, 6, 30


class PoolMachine(RuleBasedStateMachine):
    """Random sequences of what the scheduler does."""

    def __init__(self):
        super().__init__()
        self.memory = FakeMemory(N_SEQUENCES)
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
        for seq_id in self.active + self.kept:
            n = self.pool.length(seq_id)
            assert n == self.memory.length(seq_id)
            active = {id(cell) for i in self.active for cell in self.memory.cells[i]}
            cells = {id(cell) for cell in self.memory.cells[seq_id]}
            assert self.pool.inactive(seq_id, n) == len(cells - active)
            others = {i for i in self.active + self.kept if i != seq_id}
            alone = self.memory.used([*others, seq_id]) - self.memory.used(others)
            assert self.pool.unshared(seq_id, 0) == alone


TestKvPool = PoolMachine.TestCase
