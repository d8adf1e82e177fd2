import pytest

from tests.benchmarks.decode_rates import Moment, decode_rate
from tests.benchmarks.test_decode import parse_batched_bench


def steps(start: float, n: int, *, every: float = 0.1) -> list[Moment]:
    return [Moment(start + every * i, i + 1) for i in range(n)]


def test_only_the_time_in_which_all_decode_counts() -> None:
    # From 0.5 (the second one's first token) to 1.0 (the first one's last) both make 5 tokens.
    assert decode_rate([steps(0.0, 11), steps(0.5, 20)]) == pytest.approx(20)


def test_one_sequence() -> None:
    assert decode_rate([steps(3.0, 33, every=0.05)]) == pytest.approx(20)


def test_sequences_that_never_meet_are_refused() -> None:
    with pytest.raises(ValueError, match="more tokens"):
        decode_rate([steps(0.0, 3), steps(5.0, 3)])


def test_rows_of_batched_bench_are_found_between_its_other_lines() -> None:
    output = 'load: ok\n{"pl": 1, "speed_tg": 16.4}\n\n{"pl": 4, "speed_tg": 33.0}\nperf: x\n'
    assert dict(parse_batched_bench(output)) == {1: 16.4, 4: 33.0}
