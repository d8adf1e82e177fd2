"""Many encoded conversations in little memory."""

import pytest

from training.chat import Encoded
from training.packed import PackedExamples

PREFIX = (7, 8)
EXAMPLES = [
    Encoded(ids=(*PREFIX, *range(10, 12 + i)), learn=(False, False, *[False] * (1 + i), True))
    for i in range(5)
]
PACKED = PackedExamples.of(EXAMPLES, prefix=PREFIX)


def test_what_is_packed_comes_out_again() -> None:
    assert list(PACKED) == EXAMPLES
    assert PACKED[-1] == EXAMPLES[-1]
    assert PACKED[1:4:2] == EXAMPLES[1:4:2]
    assert PACKED.lengths.tolist() == [len(e.ids) for e in EXAMPLES]
    assert PackedExamples.of(PACKED) is PACKED


@pytest.mark.parametrize("index", [5, -6])
def test_there_are_no_others(index: int) -> None:
    with pytest.raises(IndexError):
        PACKED[index]


def test_rows_are_padded_where_nothing_is_learnt() -> None:
    rows = PACKED.rows([3, 0], pad_id=99)
    assert rows.ids.tolist() == [[7, 8, 10, 11, 12, 13, 14], [7, 8, 10, 11, 99, 99, 99]]
    assert rows.learn.sum(axis=1).tolist() == [1, 1]
    assert rows.learn[0, 6]
    assert rows.learn[1, 3]
    assert rows.lengths.tolist() == [7, 4]


def test_no_conversations_are_no_conversations() -> None:
    assert len(PackedExamples.of([])) == 0


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(Encoded(ids=(7, 9, 10), learn=(False,) * 3), id="begins otherwise"),
        pytest.param(Encoded(ids=(7, 8, 10), learn=(False, True, True)), id="learns the prefix"),
        pytest.param(Encoded(ids=(7,), learn=(False,)), id="too short"),
    ],
)
def test_another_beginning_is_refused(example: Encoded) -> None:
    with pytest.raises(ValueError, match="prefix"):
        PackedExamples.of([example], prefix=PREFIX)
