"""The simulation against formulas, and `carril size` from its options to its answer."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cluster.cli import main as cli
from cluster.errors import CommandError, ExitCode
from cluster.sizing.answer import Effort, Goal, gateways_for, size_for
from cluster.sizing.demand import observed, parametric
from cluster.sizing.simulation import Floats, System, Times, Traffic, simulate
from cluster.sizing.speed import Speed
from tests.unit.cluster.closed_form import (
    erlang_c,
    mmc_mean_wait,
    mmc_wait_quantile,
    processor_sharing_mean,
)

SERVICE_S = 2.0
RUNS = 16
N = 8_000
SKIP = N // 5


def poisson(rng: np.random.Generator, *, load: float, servers: int, answers: Floats) -> Traffic:
    rate = load * servers / SERVICE_S
    n = len(answers)
    return Traffic(
        arrivals=np.cumsum(rng.exponential(1 / rate, n)),
        prompt_tokens=np.zeros(n),
        answer_tokens=answers,
    )


def runs_of(system: System, *, load: float, servers: int, shape: float = 1.0) -> list[Times]:
    """Simulate independent runs; answers are gamma-distributed, exponential by default."""
    found = []
    for seed in np.random.SeedSequence(11).spawn(RUNS):
        rng = np.random.default_rng(seed)
        answers = rng.gamma(shape, SERVICE_S / shape, N)
        traffic = poisson(rng, load=load, servers=servers, answers=answers)
        found.append(simulate(system, traffic, rng=rng))
    return found


def assert_agrees(values: list[float], formula: float) -> None:
    """Demand that a formula is within 99.9 % of what independent runs say, and they are precise."""
    mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
    reach = stats.t.ppf(0.9995, len(values) - 1) * error
    assert abs(mean - formula) < reach, f"{mean:.3f} ± {reach:.3f}, formula {formula:.3f}"
    assert reach < 0.45 * formula


@pytest.mark.parametrize(
    ("servers", "load", "expected"),
    [
        # One server: C(1, a) = a. Two: 2 a^2 / (2 + a) / 2 with a = offered load.
        (1, 0.7, 0.7),
        (2, 1.0, 1 / 3),
        # Tabulated in call-centre texts: 10 agents, 8 erlangs.
        (10, 8.0, 0.4092),
    ],
)
def test_erlang_c_has_its_known_values(servers: int, load: float, expected: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(expected, abs=1e-4)


def test_erlang_c_refuses_a_queue_that_grows_for_ever() -> None:
    with pytest.raises(ValueError, match="no steady state"):
        erlang_c(4, 4.0)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (4, 0.75), (10, 0.75)])
def test_replicas_with_one_slot_are_an_mmc_queue(servers: int, load: float) -> None:
    system = System(replicas=servers, slots=1, totals=np.array([0.0, 1.0]), max_ongoing=1)
    rate = load * servers / SERVICE_S
    found = runs_of(system, load=load, servers=servers)
    assert_agrees(
        [run.slot[SKIP:].mean() for run in found], mmc_mean_wait(servers, rate, SERVICE_S)
    )
    assert_agrees(
        [float((run.slot[SKIP:] > 1e-9).mean()) for run in found],
        erlang_c(servers, rate * SERVICE_S),
    )
    assert_agrees(
        [float(np.quantile(run.slot[SKIP:], 0.95)) for run in found],
        mmc_wait_quantile(servers, rate, SERVICE_S, 0.95),
    )


def test_slots_that_do_not_slow_each_other_down_are_servers() -> None:
    system = System(replicas=1, slots=6, totals=np.arange(7.0), max_ongoing=10**6)
    found = runs_of(system, load=0.8, servers=6)
    rate = 0.8 * 6 / SERVICE_S
    assert_agrees([run.slot[SKIP:].mean() for run in found], mmc_mean_wait(6, rate, SERVICE_S))


@pytest.mark.parametrize("shape", [0.5, 1.0, 4.0])
def test_slots_that_share_one_speed_are_processor_sharing(shape: float) -> None:
    """Its mean is the same whatever the distribution of the work: only a true share does that."""
    system = System(replicas=1, slots=400, totals=np.ones(401), max_ongoing=10**6)
    found = runs_of(system, load=0.7, servers=1, shape=shape)
    assert_agrees(
        [run.total[SKIP:].mean() for run in found],
        processor_sharing_mean(0.7 / SERVICE_S, SERVICE_S),
    )


def times_of(system: System, *requests: tuple[float, float, float]) -> Times:
    """Simulate requests given as (arrival, prompt tokens, answer tokens)."""
    columns = np.array(requests, dtype=np.float64).T
    traffic = Traffic(arrivals=columns[0], prompt_tokens=columns[1], answer_tokens=columns[2])
    return simulate(system, traffic, rng=np.random.default_rng(0))


BATCH = System(replicas=1, slots=2, totals=np.array([0.0, 10.0, 16.0]), prefill_tokens_per_s=100.0)


def test_one_request_takes_its_prompt_and_its_answer() -> None:
    times = times_of(replace(BATCH, router_s=0.25), (1.0, 50, 20))
    assert times.slot.tolist() == pytest.approx([0.25])
    assert times.first.tolist() == pytest.approx([0.75])
    assert times.total.tolist() == pytest.approx([2.75])


def test_two_requests_share_the_measured_total() -> None:
    # 8 tokens/s each until the shorter ends at 1 s; then 12 left at 10 tokens/s.
    times = times_of(BATCH, (0, 0, 8), (0, 0, 20))
    assert times.total.tolist() == pytest.approx([1.0, 2.2])


def test_prompt_takes_its_share_of_the_time_from_those_that_decode() -> None:
    # From 1 s on, half the time is the prompt's: 50 tokens at 50 tokens/s last until 2 s, in which
    # the first answer makes 5 tokens instead of 10. Then both decode at 8 tokens/s.
    times = times_of(BATCH, (0, 0, 23), (1, 50, 8))
    assert times.first.tolist() == pytest.approx([0.0, 1.0])
    assert times.total.tolist() == pytest.approx([3.0, 2.0])


def test_third_request_waits_for_a_slot() -> None:
    times = times_of(BATCH, (0, 0, 8), (0, 0, 8), (0, 0, 10))
    assert times.slot.tolist() == pytest.approx([0.0, 0.0, 1.0])
    assert times.total.tolist() == pytest.approx([1.0, 1.0, 2.0])


def test_requests_that_no_replica_holds_are_served_in_their_order() -> None:
    system = System(replicas=2, slots=1, totals=np.array([0.0, 1.0]), max_ongoing=1)
    times = times_of(system, *((0.0, 0.0, 1.0) for _ in range(6)))
    assert times.slot.tolist() == pytest.approx([0, 0, 1, 1, 2, 2])


def test_size_that_suffices_is_the_smallest_and_one_less_does_not() -> None:
    demand = parametric(prompt="0", answer="20:1", cached_tokens=0, rate=3)
    system = System(replicas=1, slots=4, totals=Speed.parse("1=10,4=24").totals(4))
    answer = size_for(demand, system, Goal(total_p95_s=12), effort=Effort(requests=1500, runs=4))
    by_size = {size.replicas: size for size in answer.sizes}
    assert answer.needed is not None
    assert by_size[answer.needed].meets_goal
    assert all(not size.meets_goal for n, size in by_size.items() if n < answer.needed)
    assert max(by_size) == answer.needed + 2
    p95 = [size.total_s["p95"].value for size in answer.sizes]
    assert p95 == sorted(p95, reverse=True)
    assert answer.capacity == pytest.approx(24 / 20)
    assert by_size[answer.needed].load == pytest.approx(3 * 20 / 24 / answer.needed)


def test_promise_that_an_idle_machine_cannot_keep_is_refused() -> None:
    demand = parametric(prompt="100", answer="20", cached_tokens=0, rate=1)
    with pytest.raises(CommandError, match=r"takes 3\.00 s"):
        size_for(demand, BATCH, Goal(total_p95_s=2.9))


def test_gateways_are_planned_with_room() -> None:
    assert [gateways_for(rate, 0.004) for rate in (1, 170, 180, 690)] == [1, 1, 2, 4]


def test_lengths_have_the_mean_and_spread_that_were_asked_for() -> None:
    demand = parametric(prompt="600:0.2", answer="48:0.5", cached_tokens=560, rate=1)
    drawn = demand.draw(np.random.default_rng(5), 200_000)
    assert drawn.answer.mean() == pytest.approx(48, rel=0.01)
    assert drawn.answer.std() / drawn.answer.mean() == pytest.approx(0.5, rel=0.02)
    assert drawn.prompt.min() == 0
    assert drawn.prompt.mean() == pytest.approx(demand.mean_prompt_tokens, rel=0.03)


def test_observed_lengths_come_in_pairs(tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv"
    path.write_text("prompt_tokens,answer_tokens\n600,10\n700,90\n", encoding="utf-8")
    demand = observed(path, cached_tokens=560, rate=1)
    drawn = demand.draw(np.random.default_rng(0), 100)
    pairs = set(zip(drawn.prompt.tolist(), drawn.answer.tolist(), strict=True))
    assert pairs == {(40.0, 10.0), (140.0, 90.0)}


def test_speeds_are_read_from_the_benchmarks_forms(tmp_path: Path) -> None:
    own = tmp_path / "speeds.json"
    table = {"decode_tokens_per_s": {"1": 16.4, "8": 28}, "prefill_tokens_per_s": 95}
    own.write_text(json.dumps(table, indent=1), encoding="utf-8")
    theirs = tmp_path / "bench.jsonl"
    lines = [
        {"pl": 1, "speed_pp": 95.0, "speed_tg": 16.4},
        {"pl": 8, "speed_pp": 90.0, "speed_tg": 28.0},
    ]
    theirs.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    expected = Speed.of({1: 16.4, 8: 28.0}, 95.0)
    assert Speed.parse(str(own)) == Speed.parse(str(theirs)) == expected
    assert Speed.parse("1=16.4,8=28", 95.0) == expected
    assert expected.totals(8)[[0, 1, 8]].tolist() == [0, 16.4, 28.0]


COMMAND = [
    *("size", "--rate", "3", "--speed", "1=10,4=24", "--slots", "4", "--prompt", "0"),
    *("--answer", "20:1", "--requests", "400", "--runs", "3"),
]


def test_command_prints_its_answer_and_draws_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "bench" / "size.png"
    assert cli.run([*COMMAND, "--total-p95", "15", "--json", "--plot", str(picture)]) == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    assert document["needed"] == document["nodes"]
    assert document["needed"] >= 3
    assert document["sizes"][0]["total_s"]["p95"]["error"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli.run([*COMMAND, "--total-p95", "15", "--replicas-per-node", "2"]) == ExitCode.OK
    assert f"need {document['needed']} replicas on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--total-p95", "15", "--max-replicas", "2"], ExitCode.FAILED, "no size up to 2"),
        (["--total-p95", "0.1"], ExitCode.FAILED, "on an idle one"),
        ([], ExitCode.USAGE, "nothing is promised"),
        (["--total-p95", "15", "--rate", "0"], ExitCode.USAGE, "--rate 0"),
        (["--total-p95", "15", "--slots", "8"], ExitCode.USAGE, "up to 4 active sequences"),
        (["--total-p95", "15", "--speed", "fast"], ExitCode.USAGE, "'fast'"),
        (["--total-p95", "15", "--speed", "1=0"], ExitCode.USAGE, "no speed"),
        (["--total-p95", "15", "--prompt", "600"], ExitCode.USAGE, "--prefill"),
        (["--total-p95", "15", "--answer", "many"], ExitCode.USAGE, "'many'"),
        (["--total-p95", "15", "--cached", "5"], ExitCode.USAGE, "--cached 5"),
        (["--total-p95", "15", "--lengths", "gone.csv"], ExitCode.USAGE, "gone.csv"),
        (["--total-p95", "nan"], ExitCode.USAGE, "--total-p95 nan"),
        (["--total-p95", "15", "--first-p95", "-1"], ExitCode.USAGE, "--first-p95 -1"),
    ],
)
def test_command_says_what_it_cannot_answer(
    arguments: list[str], code: ExitCode, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*COMMAND, *arguments]) == code
    assert says in capsys.readouterr().err


def test_readme_shows_a_command_that_answers(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    block = readme.partition("## How many machines?")[2].split("```bash")[1].split("```")[0]
    words = shlex.split(block.replace("\\\n", " "))
    assert words[:2] == [".venv/bin/carril", "size"]
    plot = words.index("--plot")
    arguments = [*words[1:plot], *words[plot + 2 :], "--requests", "400", "--runs", "2", "--json"]
    assert cli.run(arguments) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["needed"] == 3


def test_missing_matplotlib_is_told_before_anything_is_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.sizing.plot.find_spec", lambda _: None)
    plot = ["--plot", str(tmp_path / "size.png")]
    assert cli.run([*COMMAND, "--total-p95", "15", *plot]) == ExitCode.FAILED
    err = capsys.readouterr().err
    assert "make tracking" in err
    assert "Simulating" not in err
