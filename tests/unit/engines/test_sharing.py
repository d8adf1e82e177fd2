"""N cold requests compute a common start once, however their prompts branch."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.llama_cpp.job import Job
from serve_app.engines.llama_cpp.kv import KvPool
from serve_app.engines.llama_cpp.prefix_cache import PrefixCache
from serve_app.engines.llama_cpp.sharing import Sharing
from serve_app.engines.protocol import GenerationRequest, SamplingParams
from tests.unit.engines.fake_memory import FakeMemory

N_CELLS, N_SEQUENCES, N_CTX = 4000, 40, 600
SYSTEM = [1] * 100
CARS, BANKS = [2] * 60, [3] * 60


def make_job(tokens, *, salt="", echo=False):
    channel: Any = None  # nothing is delivered here
    sampling = SamplingParams(max_tokens=4, logprobs=0 if echo else None)
    request = GenerationRequest(
        request_id="r", prompt="x", echo=echo, sampling=sampling, cache_salt=salt
    )
    return Job(request, tuple(tokens), echo_text="", grammar=None, channel=channel, n_ctx=N_CTX)


class Steps:
    """Prefill of running jobs, some rows per job and step, counting rows."""

    def __init__(self, *, n_kept=8, n_cells=N_CELLS):
        self.memory = FakeMemory(N_SEQUENCES)
        self.pool = KvPool(self.memory, n_cells=n_cells, n_sequences=N_SEQUENCES, n_ctx=N_CTX)
        self.sharing = Sharing(self.pool, PrefixCache(self.pool, n_kept))
        self.running = []
        self.n_rows = 0

    def enter(self, *jobs):
        for job in jobs:
            assert self.sharing.make_room_for(job, 4, must_fit=bool(self.running))
            self.sharing.enter(job)
            self.running.append(job)

    def step(self, rows=16):
        """Return how many jobs computed something."""
        self.sharing.resume(self.running)
        active = [job for job in self.running if job.leader is None and job.n_pending]
        for job in active:
            n = min(rows, job.n_pending)
            self.memory.cells[job.seq_id] += [
                [token] for token in job.tokens[job.n_past : job.n_past + n]
            ]
            self.pool.grew(job.seq_id, n)
            job.n_past += n
            self.n_rows += n
        return len(active)

    def leave(self, job, *, keep=True):
        self.running.remove(job)
        self.sharing.leave(job, keep=keep)

    def finish(self, rows=16):
        """Compute all prompts; check that each is what it should be."""
        while self.step(rows):
            pass
        for job in self.running:
            assert job.n_pending == 0
            assert [cell[0] for cell in self.memory.cells[job.seq_id]] == job.tokens


def test_cold_burst_computes_the_common_start_once():
    steps = Steps()
    steps.enter(*(make_job(SYSTEM + [10 + i] * 5) for i in range(16)))
    steps.finish()
    assert steps.n_rows == 100 + 16 * 5
    assert sorted(job.answer.cached_tokens for job in steps.running) == [0] + [100] * 15


def test_every_branch_has_a_leader_of_its_own():
    steps = Steps()
    jobs = [
        make_job(SYSTEM + branch + [10 + i] * 5)
        for i, branch in enumerate([CARS, BANKS, CARS, BANKS, CARS, BANKS])
    ]
    steps.enter(*jobs)
    steps.finish()
    assert steps.n_rows == 100 + 60 + 60 + 6 * 5
    # all but the first of a branch share the branch too
    assert sorted(job.answer.cached_tokens for job in jobs) == [0, 100, 160, 160, 160, 160]


def test_branches_of_two_starts_are_computed_side_by_side():
    steps = Steps()
    steps.enter(*(make_job(start + [10 + i] * 5) for i, start in enumerate([CARS, BANKS] * 4)))
    assert steps.step() == 2
    steps.finish()
    assert steps.n_rows == 60 + 60 + 8 * 5


@pytest.mark.parametrize("keep", [True, False])
def test_when_the_leader_goes_another_takes_over(keep):
    steps = Steps()
    jobs = [make_job(SYSTEM + [10 + i] * 5) for i in range(4)]
    steps.enter(*jobs)
    steps.step(rows=40)
    steps.leave(jobs[0], keep=keep)
    steps.finish()
    # 40 rows of its work are of use, if what it had computed was kept
    assert steps.n_rows == 100 + 3 * 5 + (0 if keep else 40)


def test_tenants_neither_share_nor_wait():
    steps = Steps()
    steps.enter(make_job([*SYSTEM, 7], salt="a"), make_job([*SYSTEM, 7], salt="b"))
    assert steps.step() == 2
    steps.finish()
    assert steps.n_rows == 2 * 101


def test_echoed_logprobs_need_every_row():
    steps = Steps()
    steps.enter(make_job([*SYSTEM, 7]), make_job([*SYSTEM, 8], echo=True))
    assert steps.step() == 2
    steps.finish()
    assert steps.n_rows == 2 * 101


def test_switched_off_nothing_is_shared_or_kept():
    steps = Steps(n_kept=0)
    jobs = [make_job([*SYSTEM, 10 + i]) for i in range(3)]
    steps.enter(*jobs)
    steps.finish()
    assert steps.n_rows == 3 * 101
    for job in jobs:
        steps.leave(job)
    assert steps.pool.used == 0


def test_same_prompt_again_computes_one_row():
    steps = Steps()
    first, again = make_job(SYSTEM), make_job(SYSTEM)
    steps.enter(first)
    steps.finish()
    steps.leave(first)
    steps.n_rows = 0
    steps.enter(again)
    steps.finish()
    assert steps.n_rows == 1
    assert again.answer.cached_tokens == 99


def test_a_match_is_not_evicted_to_make_room_for_who_needs_it():
    steps = Steps(n_cells=300)
    for tokens in (SYSTEM + CARS, BANKS):
        job = make_job(tokens)
        steps.enter(job)
        steps.finish()
        steps.leave(job)
    job = make_job(SYSTEM + [9] * 150)
    steps.enter(job)
    steps.finish()
    assert job.answer.cached_tokens == 100
    assert steps.pool.used <= 300


def test_who_cannot_fit_beside_others_evicts_nothing():
    steps = Steps(n_cells=300)
    kept = make_job(BANKS)
    steps.enter(kept)
    steps.finish()
    steps.leave(kept)
    steps.enter(make_job(SYSTEM))
    steps.finish()
    assert not steps.sharing.make_room_for(make_job([8] * 250), 4, must_fit=True)
    assert steps.pool.used == 160


prompts = st.lists(
    st.tuples(st.sampled_from([SYSTEM, CARS, BANKS]), st.sampled_from([CARS, BANKS, []])),
    min_size=1,
    max_size=12,
)


@given(prompts=prompts, rows=st.integers(1, 200))
def test_rows_are_those_of_the_distinct_starts(prompts, rows):
    jobs = [make_job(a + b + [10 + i] * 3) for i, (a, b) in enumerate(prompts)]
    steps = Steps()
    steps.enter(*jobs)
    steps.finish(rows)
    distinct = {tuple(job.tokens[:n]) for job in jobs for n in range(1, len(job.tokens) + 1)}
    assert steps.n_rows == len(distinct)
