from tests.benchmarks.test_ablation import summarise, turns


def test_rows_take_turns_in_both_directions() -> None:
    forwards = [name for name, _ in turns(0)]
    assert forwards[0] == "all_on"
    assert [name for name, _ in turns(1)] == forwards[::-1]


def test_a_switch_that_helps_has_a_ratio_below_one() -> None:
    compared, absolutes = summarise(
        {("burst", "all_on"): [4.0, 5.0], ("burst", "no_prefix_cache"): [2.0, 2.0]}
    )
    assert compared["without_prefix_cache_burst"].median == 0.45
    assert absolutes["ablation_burst_all_on"].max == 5.0
