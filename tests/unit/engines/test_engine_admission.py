"""The bounds of the queue, per class."""

import pytest

from serve_app.engines.llama_cpp.admission import Admission
from serve_app.errors import Overloaded


def fill(admission, priority):
    n = 0
    while True:
        try:
            admission.enter(priority)
        except Overloaded:
            return n
        n += 1


def test_lesser_work_leaves_places_for_users():
    admission = Admission(n_slots=2, max_queue=8)
    assert fill(admission, "background") == 2 + 2
    assert fill(admission, "batch") == 4, "with the copies it fills three quarters of the queue"
    assert fill(admission, "interactive") == 2
    assert admission.n_live == 10


def test_users_may_fill_everything_and_then_others_are_refused():
    admission = Admission(n_slots=2, max_queue=8)
    assert fill(admission, "interactive") == 10
    with pytest.raises(Overloaded, match="'batch'") as refusal:
        admission.enter("batch")
    assert refusal.value.retry_after_s >= 1
    admission.leave("interactive", 0.1)
    admission.enter("batch")


def test_without_a_queue_every_class_finds_the_slots():
    for priority in ("interactive", "batch", "background"):
        assert fill(Admission(n_slots=3, max_queue=0), priority) == 3
