"""Which batches a step of a training sees."""

import pytest

from training.batches import BatchPlan
from training.chat import Encoded
from training.config import OptimConfig
from training.exercises import Exercise, StepBatches, TrainingSet, n_computed

SEED = 5
PREFIX = (1, 2)
SYSTEM = (*PREFIX, 3)
OPENINGS = [(*PREFIX, 30, 31, 32, 33), (*PREFIX, 40)]


def intent_exercise(number: int) -> Encoded:
    ids = (*SYSTEM, *[100 + number] * (1 + number % 3), 99)
    return Encoded(ids=ids, learn=(*[False] * (len(ids) - 1), True))


def answer(number: int) -> Encoded:
    ids = (*PREFIX, 200 + number, *[250] * (number % 4), 98)
    return Encoded(ids=ids, learn=(*[False] * 3, *[True] * (len(ids) - 3)))


DATA = TrainingSet(
    answers=[answer(i) for i in range(12)],
    intents=[intent_exercise(i) for i in range(40)],
    prefix=PREFIX,
    system_ids=SYSTEM,
    openings=OPENINGS,
)


def plainly(exercise: Exercise) -> tuple[object, ...]:
    """Return an exercise as lists, which can be compared."""
    return (*(part.tolist() for part in exercise.batch), exercise.prefix)


def all_plainly(seen: list[list[Exercise]]) -> list[list[tuple[object, ...]]]:
    return [[*map(plainly, exercises)] for exercises in seen]


def optim(**changes: int) -> OptimConfig:
    fields = {"n_steps": 20, "n_intent_steps": 12, "batch_size": 3, "intent_batch_size": 8}
    return OptimConfig.model_validate(fields | changes)


def steps(data: TrainingSet = DATA, **changes: int) -> list[list[Exercise]]:
    batches = StepBatches(data, optim(**changes), seed=SEED)
    return [batches.at(step) for step in range(20)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, [*range(12, 20)], id="none before the whole answers"),
        pytest.param({"answer_every_steps": 4}, [3, 7, 11, *range(12, 20)], id="some before"),
        pytest.param({"answer_every_steps": 5}, [4, 9, *range(12, 20)], id="a rest left over"),
        pytest.param({"answer_every_steps": 1}, [*range(20)], id="in all of them"),
        pytest.param({"n_intent_steps": 0}, [*range(20)], id="whole answers only"),
    ],
)
def test_whole_answers_come_in_their_steps_and_in_order(
    changes: dict[str, int], expected: list[int]
) -> None:
    seen = steps(**changes)
    assert [i for i, exercises in enumerate(seen) if len(exercises) == 2] == expected
    plan = BatchPlan(DATA.answers, batch_size=3, seed=SEED, pad_id=0)
    answers = [plainly(exercises[1]) for exercises in seen if len(exercises) == 2]
    assert answers == [plainly(Exercise(plan.batch(i), PREFIX)) for i in range(len(expected))]


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(steps(opening_percent=0), id="in no step"),
        pytest.param(steps(DATA._replace(openings=()), opening_percent=100), id="no openings"),
    ],
)
def test_messages_stand_alone_without_openings(seen: list[list[Exercise]]) -> None:
    plan = BatchPlan(DATA.intents, batch_size=8, seed=SEED, pad_id=0)
    expected = [plainly(Exercise(plan.batch(i), PREFIX)) for i in range(20)]
    assert [plainly(e[0]) for e in seen] == expected


def test_an_opening_replaces_what_stands_before_the_messages_only() -> None:
    plain, moved = steps(opening_percent=0), steps(opening_percent=100)
    assert {e[0].prefix for e in moved} == set(OPENINGS)
    for (before, *_), (after, *_) in zip(plain, moved, strict=True):
        opening = after.prefix
        for ids, original in zip(after.batch.ids, before.batch.ids, strict=True):
            assert ids.tolist() == [*opening, *original[len(SYSTEM) :].tolist()]
        for learn, original in zip(after.batch.learn, before.batch.learn, strict=True):
            assert learn.tolist() == [*[False] * len(opening), *original[len(SYSTEM) :].tolist()]
        assert after.batch.n_tokens == (after.batch.ids != 0).sum()
        once = len(opening) * (len(after.batch.ids) - 1)
        assert n_computed(after) == after.batch.n_tokens - once


def test_about_half_of_the_steps_have_an_opening() -> None:
    batches = StepBatches(DATA, optim(), seed=SEED)
    opened = sum(batches.at(step)[0].prefix in OPENINGS for step in range(400))
    assert 150 < opened < 250  # five standard deviations


def test_a_step_does_not_depend_on_those_before() -> None:
    seen = steps(answer_every_steps=4)
    fresh = StepBatches(DATA, optim(answer_every_steps=4), seed=SEED)
    wanted = all_plainly([seen[19], seen[3], seen[11]])
    assert all_plainly([fresh.at(step) for step in (19, 3, 11)]) == wanted
    other = StepBatches(DATA, optim(answer_every_steps=4), seed=SEED + 1)
    assert all_plainly([other.at(step) for step in range(20)]) != all_plainly(seen)


def test_tokens_are_blotted_out_of_messages_only_and_others_every_time() -> None:
    # A message of three tokens between system prompt, one token of markup, two, and the intent.
    around = (*SYSTEM, 60, 61, 62)
    intents = [
        Encoded(ids=(*SYSTEM, 60, *[100 + i] * 3, 61, 62, 99), learn=(*[False] * 9, True))
        for i in range(40)
    ]
    data = DATA._replace(intents=intents, around=around, n_after=2, lost_id=77)
    assert all_plainly(steps(data, lost_tokens_percent=0)) == all_plainly(steps(data))
    seen = [e[0].batch.ids[:, 3:] for e in steps(data, lost_tokens_percent=30, opening_percent=0)]
    lost = [ids == 77 for ids in seen]
    assert all((ids[:, [0, 4, 5, 6]] == [60, 61, 62, 99]).all() for ids in seen)
    share = sum(int(where.sum()) for where in lost) / (20 * 8 * 3)
    assert 0.2 < share < 0.4  # five standard deviations
    assert len({where.tobytes() for where in lost}) > 15
    again = steps(data, lost_tokens_percent=30, opening_percent=0)
    assert [e[0].batch.ids[:, 3:].tolist() for e in again] == [ids.tolist() for ids in seen]
