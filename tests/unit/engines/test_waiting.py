"""The order of the line: classes, deadlines, patience."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.llama_cpp.waiting import HORIZON_S, PATIENCE_S, WaitingLine
from serve_app.engines.protocol import PRIORITIES
from tests.unit.engines.line import Clock, make_job


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def line(clock):
    return WaitingLine(clock)


def test_classes_go_before_each_other_whatever_came_first(line, clock):
    jobs = [make_job(clock, name) for name in ("background", "batch", "interactive")]
    for job in jobs:
        line.add(job)
    assert line.in_order() == jobs[::-1]
    assert [line.count(name) for name in PRIORITIES] == [1, 1, 1]


def test_within_a_class_the_earliest_deadline_goes_first_and_else_who_came_first(line, clock):
    first, second = make_job(clock), make_job(clock)
    clock.now += 1
    urgent, relaxed = make_job(clock, timeout_s=5), make_job(clock, timeout_s=10**6)
    for job in (first, relaxed, second, urgent):
        line.add(job)
    assert line.in_order() == [urgent, first, second, relaxed]


def test_a_deadline_for_the_first_token_counts_like_any_other(line, clock):
    late, soon = make_job(clock, timeout_s=50), make_job(clock, timeout_s=90, first_token_s=5)
    line.add(late)
    line.add(soon)
    assert line.in_order() == [soon, late]


def test_who_comes_later_than_the_horizon_does_not_go_before(line, clock):
    patient = make_job(clock)
    line.add(patient)
    clock.now += HORIZON_S
    line.add(make_job(clock, timeout_s=0.001))
    assert line.in_order()[0] is patient


def test_a_preempted_job_goes_before_the_new_ones_of_its_class(line, clock):
    waiting, back = make_job(clock, "batch", timeout_s=1), make_job(clock, "batch")
    line.add(waiting)
    back.to_waiting()
    line.add(back)
    assert line.in_order() == [back, waiting]


@pytest.mark.parametrize("name", ["batch", "background"])
def test_a_class_without_a_slot_is_let_in_after_its_patience_and_once_at_a_time(line, clock, name):
    first, second = make_job(clock, name), make_job(clock, name)
    line.add(first)
    line.add(second)
    clock.now += PATIENCE_S[name]
    user = make_job(clock)
    line.add(user)
    assert line.in_order() == [first, user, second]
    line.seat(first)
    assert first.is_promoted
    clock.now += 10 * PATIENCE_S[name]
    assert line.in_order() == [user, second], "while one of the class has a slot, none is let in"
    line.unseat(first)
    clock.now += PATIENCE_S[name]
    assert line.in_order() == [second, user]


def test_patience_counts_from_when_the_class_came_or_left(line, clock):
    clock.now += 10**6
    user, work = make_job(clock), make_job(clock, "batch")
    line.add(user)
    line.add(work)
    assert line.in_order() == [user, work]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(PRIORITIES),
            st.floats(0, 50),
            st.none() | st.floats(0.1, 1000),
        ),
        max_size=30,
    )
)
def test_the_order_has_everybody_once_and_is_sorted_by_class_and_urgency(arrivals):
    clock = Clock()
    line = WaitingLine(clock)
    jobs = []
    for name, pause_s, timeout_s in arrivals:
        clock.now += pause_s
        jobs.append(make_job(clock, name, timeout_s=timeout_s))
        line.add(jobs[-1])
    order = line.in_order()
    assert sorted(map(id, order)) == sorted(map(id, jobs))
    assert len(line) == len(jobs)
    n_front = sum(line.is_promoted(job) for job in order)
    assert all(line.is_promoted(job) for job in order[:n_front])
    rest = order[n_front:]
    ranks = [PRIORITIES.index(job.priority) for job in rest]
    assert ranks == sorted(ranks)
    for before, after in itertools.pairwise(rest):
        if before.priority == after.priority:
            # Nobody goes before one who came a horizon earlier.
            assert before.submitted_at <= after.submitted_at + HORIZON_S
