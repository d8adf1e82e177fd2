"""How often the gate is right: models with a known difference, many times over."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from experiments.gate.engine import evaluate_gate, judge
from experiments.gate.policy import Floors, GatePolicy, Hypothesis, Margins
from experiments.gate.run import Run, read_run
from tests.unit.experiments.gate.runs import SHA_B, Bools, golden, related, write_run

_N = 1_500
_REPETITIONS = 200
_THREE_SIGMA = 3 * (0.05 * 0.95 / _REPETITIONS) ** 0.5
"""Monte-Carlo error of a share of 5 % over 200 repetitions."""

_BARE = GatePolicy.model_validate(
    {
        "floors": dict.fromkeys(Floors.model_fields),
        "margins": dict.fromkeys(Margins.model_fields),
        "min_slice_items": 10**6,
    }
)
"""The test for a gain alone: no other check may hide a false PASS."""


@pytest.fixture
def bench(tmp_path: Path) -> "Bench":
    return Bench(tmp_path)


class Bench:
    """Turns yes/no answers into runs without writing a folder for each."""

    def __init__(self, folder: Path) -> None:
        self._template = {
            per_group: read_run(
                write_run(folder / str(per_group), golden([True] * _N, per_group)), "candidate"
            )
            for per_group in (1, 5)
        }
        self._wrong = {
            per_group: [
                item.model_copy(update={"correct": False, "predicted": "despedida"})
                for item in run.predictions
            ]
            for per_group, run in self._template.items()
        }

    def run(self, correct: Bools, sha256: str, per_group: int = 1) -> Run:
        template = self._template[per_group]
        predictions = tuple(
            item if right else item.model_copy(update={"correct": False, "predicted": "despedida"})
            for item, right in zip(template.predictions, correct.tolist(), strict=True)
        )
        return Run(report=template.report, sha256=sha256, predictions=predictions)

    def verdicts(
        self, difference: float, *, repetitions: int, policy: GatePolicy, per_group: int = 1
    ) -> list[str]:
        rng = np.random.default_rng(7)
        found = []
        for _ in range(repetitions):
            base = _base(rng, per_group)
            other = _by_group(base, difference, rng, per_group)
            candidate = self.run(other, "d" * 64, per_group)
            champion = self.run(base, SHA_B, per_group)
            found.append(judge(candidate, champion, policy).verdict.value)
        return found


def _base(rng: np.random.Generator, per_group: int) -> Bools:
    """Answers of a model that is right on 90 %, all or none of a conversation."""
    return np.repeat(rng.random(_N // per_group) < 0.90, per_group)


def _by_group(base: Bools, difference: float, rng: np.random.Generator, per_group: int) -> Bools:
    groups: NDArray[np.bool_] = base[::per_group]
    return np.repeat(related(groups, difference, 0.09, rng), per_group)


@pytest.mark.parametrize("per_group", [1, 5], ids=["single items", "conversations of five"])
def test_equal_models_pass_no_more_often_than_alpha(bench: Bench, per_group: int) -> None:
    verdicts = bench.verdicts(0.0, repetitions=_REPETITIONS, policy=_BARE, per_group=per_group)
    assert verdicts.count("PASS") / _REPETITIONS <= 0.05 + _THREE_SIGMA


def test_bootstrap_replicates_of_one_pair_of_equal_models_rarely_pass(bench: Bench) -> None:
    """Resampled items of one fixed A/A pair, as a user would repeat the gate on other items.

    The pair is balanced (as many items better as worse), so that the replicates have no true gain.
    """
    rng = np.random.default_rng(11)
    base = np.arange(_N) % 10 != 0
    better, worse = np.flatnonzero(~base)[:60], np.flatnonzero(base)[:60]
    other = base.copy()
    other[better], other[worse] = True, False
    passes = 0
    for _ in range(_REPETITIONS):
        chosen = rng.integers(0, _N, _N)
        candidate, champion = bench.run(other[chosen], "d" * 64), bench.run(base[chosen], SHA_B)
        passes += judge(candidate, champion, _BARE).verdict.value == "PASS"
    assert passes / _REPETITIONS <= 0.05 + _THREE_SIGMA


def test_a_model_three_points_worse_never_passes(bench: Bench) -> None:
    verdicts = bench.verdicts(-0.03, repetitions=100, policy=_BARE)
    assert verdicts.count("PASS") == 0
    assert verdicts.count("FAIL") >= 90


def test_a_model_three_points_worse_does_not_slip_through_non_inferiority(bench: Bench) -> None:
    policy = _BARE.model_copy(
        update={
            "hypothesis": Hypothesis.NON_INFERIORITY,
            "reason": "half the size",
            "margins": Margins(),
        }
    )
    verdicts = bench.verdicts(-0.03, repetitions=100, policy=policy)
    assert verdicts.count("PASS") == 0


def test_a_model_five_points_better_passes(bench: Bench) -> None:
    verdicts = bench.verdicts(0.05, repetitions=20, policy=GatePolicy())
    assert verdicts.count("PASS") >= 18


def test_an_equal_model_passes_as_non_inferior(bench: Bench) -> None:
    policy = GatePolicy(hypothesis=Hypothesis.NON_INFERIORITY, reason="half the size")
    verdicts = bench.verdicts(0.0, repetitions=30, policy=policy)
    # 2 points at 9 % of disagreements and 1,500 items: z = 0.02 / (0.3 / sqrt(1500)) - 1.645 =
    # 0.94, so a power of 0.83; five of its standard errors below that.
    assert verdicts.count("PASS") >= 15


def test_two_runs_of_one_file_do_not_pass(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    base = rng.random(_N) < 0.90
    lucky = related(base, 0.05, 0.09, rng)
    one = write_run(tmp_path / "one", golden(lucky), sha256=SHA_B)
    two = write_run(tmp_path / "two", golden(base), sha256=SHA_B)
    report = evaluate_gate(one, two, GatePolicy())
    assert report.verdict.value == "FAIL"
    assert any("same file" in reason for reason in report.reasons)


def test_the_same_file_with_another_prior_is_another_candidate(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    base = rng.random(_N) < 0.85
    better = golden(related(base, 0.05, 0.09, rng))
    candidate = write_run(tmp_path / "one", better, sha256=SHA_B, prior="d" * 64)
    champion = write_run(tmp_path / "two", golden(base), sha256=SHA_B)  # from before priors
    report = evaluate_gate(candidate, champion, GatePolicy())
    assert report.verdict.value == "PASS"
    (note,) = report.notes
    assert note.startswith(f"the candidate was measured with the intent prior {'d' * 64}, the ")
    assert "the champion without an intent prior" in note
    markdown = report.to_markdown()
    assert f"- {note}" in markdown
    assert "(`bbbbbbbbbbbb`, intent prior `dddddddddddd`) against champion" in markdown
    assert report.to_document()["candidate"] == {
        "name": "okla-chat",
        "version": "2.0.0",
        "sha256": SHA_B,
        "prior_sha256": "d" * 64,
    }


def test_few_items_are_inconclusive_and_say_how_many_would_decide(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    base = rng.random(300) < 0.90
    policy = GatePolicy.model_validate({"floors": {"out_of_scope_recall": None}})
    candidate = write_run(tmp_path / "a", golden(related(base, 0.02, 0.09, rng)))
    champion = write_run(tmp_path / "b", golden(base), sha256=SHA_B)
    report = evaluate_gate(candidate, champion, policy)
    assert report.verdict.value == "INCONCLUSIVE"
    primary = next(check for check in report.checks if check.kind.value == "primary")
    # (z_.05 + z_.2)^2 * 0.09 / 0.02^2 = 1,391 with exactly 9 % of disagreements.
    assert primary.n_needed is not None
    assert 900 < primary.n_needed < 2_200


def test_one_broken_intent_fails_although_the_average_is_better(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    base = rng.random(_N) < 0.90
    other = related(base, 0.08, 0.09, rng)
    saludo = np.arange(_N) % 5 == 0
    other[saludo] = base[saludo] & (rng.random(int(saludo.sum())) < 0.85)
    candidate = write_run(tmp_path / "a", golden(other))
    champion = write_run(tmp_path / "b", golden(base), sha256=SHA_B)
    report = evaluate_gate(candidate, champion, GatePolicy())
    assert other.mean() > base.mean()
    assert report.verdict.value == "FAIL"
    failed = {check.name for check in report.checks if check.outcome.value == "FAIL"}
    assert failed == {"intent_accuracy[intent=saludo]"}
