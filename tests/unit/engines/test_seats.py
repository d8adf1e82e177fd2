"""Admission: preemption by class, bounded overtaking, no starvation, early refusals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engines.llama_cpp import seats as module
from serve_app.engines.llama_cpp.service_time import ServiceTime
from serve_app.engines.llama_cpp.waiting import PATIENCE_S
from serve_app.engines.protocol import PRIORITIES
from tests.unit.engines.line import Clock, make_job, make_seats


@pytest.fixture
def clock():
    return Clock()


def put(seats, *jobs):
    for job in jobs:
        seats.waiting.add(job)
    seats.admit()


def test_a_user_takes_the_slot_of_the_newest_of_the_least_class(clock):
    seats = make_seats(clock, 4)
    work = [make_job(clock, name) for name in ("batch", "background", "background", "batch")]
    for job in work:  # one after the other, so that the order of admission is this one
        put(seats, job)
    user = make_job(clock)
    put(seats, user)
    assert user in seats.running
    assert list(seats.waiting) == [work[2]]
    assert work[2].n_preemptions == 1
    put(seats, make_job(clock), make_job(clock), make_job(clock), make_job(clock))
    assert sorted(job.priority for job in seats.running) == ["interactive"] * 4
    assert set(seats.waiting) > set(work)


def test_nobody_takes_a_slot_of_its_own_class_or_a_higher_one(clock):
    seats = make_seats(clock, 2)
    put(seats, make_job(clock), make_job(clock, "batch"))
    running = list(seats.running)
    put(seats, make_job(clock, "batch"), make_job(clock, "background"))
    assert seats.running == running


def test_a_promoted_job_keeps_its_slot(clock):
    seats = make_seats(clock, 1)
    put(seats, make_job(clock))
    work = make_job(clock, "batch")
    put(seats, work)
    clock.now += PATIENCE_S["batch"]
    put(seats, make_job(clock))
    seats.leave(seats.running[0], keep=True)
    seats.admit()
    assert seats.running == [work]
    put(seats, make_job(clock))
    assert seats.running == [work]


def test_a_large_job_is_overtaken_by_smaller_ones_a_bounded_number_of_times(clock):
    seats = make_seats(clock, 4, n_cells=1000)
    holder = make_job(clock, n_tokens=300)
    large = make_job(clock, n_tokens=900)
    put(seats, holder, large)
    passed = 0
    for _ in range(50):
        small = make_job(clock, n_tokens=20)
        put(seats, small)
        if small not in seats.running:
            break
        passed += 1
        seats.leave(small, keep=True)
    assert passed == module._MAX_OVERTAKEN
    seats.leave(holder, keep=True)
    seats.admit()
    assert seats.running[0] is large


def test_memory_is_taken_from_a_lesser_job_only_if_that_is_enough(clock):
    seats = make_seats(clock, 8, n_cells=1000)
    peer = make_job(clock, n_tokens=500)
    work = make_job(clock, "batch", n_tokens=400)
    put(seats, peer, work)
    put(seats, make_job(clock, n_tokens=600))
    assert seats.running == [peer, work], "sending the work away would not have made room"
    fits = make_job(clock, n_tokens=450)
    put(seats, fits)
    assert seats.running == [peer, fits]


def test_memory_runs_out_for_the_least_first(clock):
    seats = make_seats(clock, 4)
    put(seats, make_job(clock, "background"), make_job(clock), make_job(clock, "batch"))
    assert seats.last().priority == "background"


def test_a_wait_longer_than_the_deadline_is_found_once_times_are_known(clock):
    seats = make_seats(clock, 2)
    put(seats, make_job(clock, timeout_s=500), make_job(clock, timeout_s=500))
    line = [make_job(clock, timeout_s=25 + i) for i in range(6)]
    for job in line:
        seats.waiting.add(job)
    assert seats.hopeless() == [], "nothing is known yet"
    for _ in range(20):
        seats.service_time.record(20.0)
    late = seats.hopeless()
    assert [job for job, _ in late] == line[4:]
    assert [wait_s for _, wait_s in late] == [pytest.approx(40.0)] * 2


def test_nobody_is_refused_where_times_differ_much():
    service_time = ServiceTime()
    for i in range(100):
        service_time.record(0.1 if i % 2 else 30.0)
    assert service_time.least_s == 0.0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_everybody_is_served_under_a_flood_of_users(data):
    """Virtual time: users come faster than slots free up, and all others still end."""
    clock = Clock()
    n_slots = data.draw(st.integers(1, 4))
    seats = make_seats(clock, n_slots, n_cells=2000)
    service_s = data.draw(st.floats(0.5, 10))
    lesser = [
        make_job(clock, name, n_tokens=data.draw(st.integers(1, 1800)))
        for name in data.draw(st.lists(st.sampled_from(PRIORITIES[1:]), min_size=1, max_size=4))
    ]
    for job in lesser:
        seats.waiting.add(job)
    ends = {}
    done = set()
    limit_s = sum(PATIENCE_S[job.priority] + 3 * service_s for job in lesser)
    # One that needs much memory is overtaken a few times, and then waits for the slots to empty.
    limit_s += len(lesser) * (module._MAX_OVERTAKEN + n_slots + 2) * service_s
    started = clock.now
    while not done.issuperset(lesser):
        assert clock.now - started <= limit_s, "starved"
        while seats.waiting.count("interactive") < 3:
            seats.waiting.add(make_job(clock, n_tokens=data.draw(st.integers(1, 300))))
        seats.admit()
        assert len(seats.running) <= n_slots
        for job in seats.running:
            ends.setdefault(job, clock.now + service_s)
        ends = {job: end for job, end in ends.items() if job in seats.running}
        clock.now += service_s / 2
        for job, end in list(ends.items()):
            if end <= clock.now:
                seats.leave(job, keep=True)
                done.add(job)


def test_only_complete_answers_say_how_long_a_slot_is_held(clock):
    seats = make_seats(clock, 1)
    for seconds, answered in ((10, True), (0.1, False), (0.1, False)):
        job = make_job(clock)
        put(seats, job)
        clock.now += seconds
        seats.leave(job, keep=True, answered=answered)  # a reader who left is kept, too
    assert (seats.service_time.n_seen, seats.service_time.mean_s) == (1, 10)
