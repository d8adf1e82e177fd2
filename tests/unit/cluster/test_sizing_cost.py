"""What answers cost, as a function and through the command."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cluster.cli.size import size_app
from cluster.errors import CommandError
from cluster.sizing.cost import cost_of

POSITIVE = st.floats(0.01, 1000)
CHEAP = ["--rate", "0.5", "--speed", "1=16.4,4=33,8=28", "--prompt", "0", "--total-p95", "30"]
QUICK = ["--requests", "400", "--runs", "2"]


def test_a_node_that_answers_one_request_a_second_at_3_60_an_hour() -> None:
    cost = cost_of(1, 1.0, 3.6, node_capacity=2.0)
    assert cost.per_thousand == pytest.approx(1.0)
    assert cost.per_thousand_full == pytest.approx(0.5)


@given(nodes=st.integers(1, 50), rate=POSITIVE, price=POSITIVE, capacity=POSITIVE)
def test_an_hour_of_all_answers_costs_what_the_nodes_cost(
    nodes: int, rate: float, price: float, capacity: float
) -> None:
    cost = cost_of(nodes, rate, price, node_capacity=capacity)
    assert cost.per_thousand / 1000 * rate * 3600 == pytest.approx(nodes * price)
    if rate <= nodes * capacity:
        assert cost.per_thousand >= cost.per_thousand_full * (1 - 1e-9)


def test_the_command_tells_the_cost_of_the_size_it_found() -> None:
    runner = CliRunner()
    done = runner.invoke(size_app, [*CHEAP, *QUICK, "--node-hour", "0.2", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    expected = cost_of(found["nodes"], 0.5, 0.2, node_capacity=found["capacity"])
    assert found["cost"] == pytest.approx(
        {"per_thousand": expected.per_thousand, "per_thousand_full": expected.per_thousand_full}
    )
    told = runner.invoke(size_app, [*CHEAP, *QUICK, "--node-hour", "0.2"]).stdout
    assert f"1,000 answers cost {expected.per_thousand:.3g}" in told
    assert "cost" not in runner.invoke(size_app, [*CHEAP, *QUICK]).stdout


@pytest.mark.parametrize("price", ["0", "-1", "inf", "nan"])
def test_what_is_no_price_is_refused(price: str) -> None:
    done = CliRunner().invoke(size_app, [*CHEAP, "--node-hour", price])
    assert isinstance(done.exception, CommandError)
    assert "is no price" in str(done.exception)
