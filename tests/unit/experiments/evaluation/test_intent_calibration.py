import json
import math
from datetime import UTC, datetime

import numpy as np
import pytest

from experiments.evaluation.errors import BadInput
from experiments.evaluation.intent_calibration import (
    IntentCalibration,
    OperatingPoint,
    calibration_path,
    find_calibrations,
    line,
    read_calibration,
    temper,
    write_calibration,
)
from experiments.evaluation.profile import DEFAULT_DIR, read_profile

POINT = OperatingPoint(
    label="fuera_de_dominio",
    threshold=0.2,
    most_false_alarms=0.05,
    false_alarms=0.03,
    false_alarms_upper=0.049,
    recall=0.8,
    n_in_scope=500,
    n_out_of_scope=40,
)


def calibration(**more: object) -> IntentCalibration:
    fields: dict[str, object] = {
        "model": "m.gguf",
        "model_sha256": "a" * 64,
        "data": "dev.jsonl",
        "data_sha256": "b" * 64,
        "grammar": True,
        "labels": ("saludo", "fuera_de_dominio"),
        "n": 540,
        "n_without_probability": 0,
        "temperature": 2.0,
        "slope": 1.0,
        "intercept": 0.0,
        "out_of_scope": POINT,
        "created_at": datetime(2026, 5, 1, tzinfo=UTC),
    }
    return IntentCalibration.model_validate(fields | more)


def test_a_decision_by_hand():
    # Square roots of 0.9 and 0.1, and their sum.
    off_topic = math.sqrt(0.1) / (math.sqrt(0.9) + math.sqrt(0.1))
    found = calibration().decide({"saludo": 0.9, "fuera_de_dominio": 0.1}, "saludo")
    assert found.out_of_scope_probability == pytest.approx(off_topic) == pytest.approx(0.25)
    assert found.confidence == pytest.approx(0.75)
    assert found.out_of_scope is True  # though the answer names another intent
    sure = calibration().decide({"saludo": 0.99, "fuera_de_dominio": 0.01}, "saludo")
    assert sure.out_of_scope is False


def test_without_an_operating_point_nothing_is_decided():
    found = calibration(out_of_scope=None).decide({"saludo": 1.0}, "saludo")
    assert found.out_of_scope is None


def test_an_intent_that_was_no_candidate_is_hardly_right():
    found = calibration().decide({"saludo": 1.0}, "fuera_de_dominio")
    assert found.confidence == pytest.approx(1e-6)
    assert found.out_of_scope is False


def test_tempering_survives_the_smallest_probabilities():
    found = temper({"a": 1.0, "b": 5e-324, "c": 0.0}, 0.05)
    assert found == {"a": 1.0, "b": 0.0}
    assert temper({"a": 0.0}, 1.0) == {}


def test_the_line_stays_within_the_scale():
    values = [line(p, 20.0, 3.0) for p in np.linspace(0, 1, 101)]
    assert values == sorted(values)
    assert 0.0 < values[0] < values[-1] <= 1.0


def test_the_record_is_kept_beside_the_model_and_found_by_its_hash(tmp_path):
    path = calibration_path(tmp_path / "okla-v2.Q4_K_M.gguf")
    assert path.name == "okla-v2.calibration.json"
    write_calibration(calibration(), path)
    assert read_calibration(path) == calibration()
    other = tmp_path / "other"
    assert find_calibrations("a" * 64, [other, tmp_path]) == [calibration()]
    assert find_calibrations("c" * 64, [tmp_path]) == []


def test_a_record_names_its_prior_and_without_one_is_what_it_always_was(tmp_path):
    path = tmp_path / "m.calibration.json"
    write_calibration(calibration(prior_sha256="d" * 64), path)
    assert read_calibration(path).prior_sha256 == "d" * 64
    write_calibration(calibration(), path)
    assert b"prior_sha256" not in path.read_bytes()
    assert read_calibration(path).prior_sha256 is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"temperature": 0}, "temperature"),
        ({"slope": -1}, "slope"),
        ({"intercept": None}, "intercept"),
        ({"model_sha256": "a"}, "model_sha256"),
        ({"prior_sha256": "none"}, "prior_sha256"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_broken_record_is_named(tmp_path, change, reason):
    path = tmp_path / "m.calibration.json"
    path.write_text(json.dumps(json.loads(calibration().to_json()) | change))
    with pytest.raises(BadInput, match=rf"m\.calibration\.json.*{reason}"):
        read_calibration(path)


def test_no_number_may_be_none_of_them(tmp_path):
    path = tmp_path / "m.calibration.json"
    path.write_text(
        calibration().to_json().decode().replace('"intercept": 0.0', '"intercept": NaN')
    )
    with pytest.raises(BadInput, match=r"intercept|number"):
        read_calibration(path)
    with pytest.raises(ValueError, match="finite"):
        calibration(temperature=math.inf)


@pytest.mark.parametrize("name", ["okla-v1", "okla-v2"])
def test_a_shipped_model_comes_with_the_calibration_of_its_file(name: str) -> None:
    folder = DEFAULT_DIR.parent
    manifest = json.loads((folder / f"{name}.manifest.json").read_text(encoding="utf-8"))
    found = read_calibration(folder / f"{name}.calibration.json")
    assert found.model_sha256 == manifest["sha256"], "the model was replaced: make calibrate"
    assert found.out_of_scope is not None
    assert found.out_of_scope.false_alarms_upper <= 0.05


def test_the_shipped_calibration_was_fitted_with_the_prior_of_the_shipped_profile() -> None:
    found = read_calibration(DEFAULT_DIR.parent / "okla-v2.calibration.json")
    bias = read_profile().bias
    in_force = None if bias is None else bias.sha256
    assert found.prior_sha256 == in_force, "the profile's prior was changed: make calibrate"
