import pytest

from tests.benchmarks.stream_load import Result
from tests.benchmarks.test_stall import gaps

LONG = Result(label="long prompt", sent_s=1.0, ttft_s=2.0)


def test_only_pauses_while_the_long_prompt_is_computed_count() -> None:
    before_it = Result(label="a", text_at_s=[0.0, 0.9])
    across_its_start = Result(label="b", text_at_s=[0.8, 2.5])
    after_it = Result(label="c", text_at_s=[3.1, 9.0])
    across_its_end = Result(label="d", text_at_s=[2.9, 3.4])
    found = gaps([before_it, across_its_start, after_it, across_its_end, LONG])
    assert found == pytest.approx([1.7, 0.5])


def test_streams_that_ended_too_early_measure_nothing() -> None:
    with pytest.raises(ValueError, match="make them longer"):
        gaps([Result(label="a", text_at_s=[0.0, 0.5]), LONG])
