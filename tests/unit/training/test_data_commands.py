"""`carril data messages|validate|stats`, the facts and the rated answers."""

import json
import re
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from experiments.evaluation.labelled_texts import read_training_texts
from training.cli import data_app
from training.config import load_config
from training.contract import parse_answer
from training.data.dataset import write_dataset
from training.data.facts import load_facts
from training.data.generator import DataConfig, phrases
from training.data.ratings import CORRUPTIONS, rated_answers
from training.data.validation import validate_sources
from training.retrain.feedback import read_export

ROOT = Path(__file__).parents[3]
CONFIG = DataConfig(n_train=62)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(CONFIG, folder)
    return folder


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    for path in dataset.rglob("*.json*"):
        target = tmp_path / path.relative_to(dataset)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path


def validate(folder: Path) -> tuple[int, str]:
    result = CliRunner().invoke(data_app, ["validate", str(folder)])
    return result.exit_code, result.output


def test_a_generated_dataset_is_sound(dataset: Path) -> None:
    code, output = validate(dataset)
    assert code == 0, output
    assert "golden: " in output
    assert "blind: " in output
    assert "natural: " in output


def test_a_dataset_from_before_there_were_natural_messages_is_sound(copy: Path) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["natural"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    (copy / "natural.jsonl").unlink()
    assert validate(copy)[0] == 0


def test_natural_messages_of_other_bytes_are_named(copy: Path) -> None:
    with (copy / "natural.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    code, output = validate(copy)
    assert code == 1
    assert "natural.jsonl: SHA-256 is" in output


def change(folder: Path, index: int, **fields: object) -> None:
    path = folder / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[index] = json.dumps(json.loads(lines[index]) | fields, ensure_ascii=False)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_broken_line_is_named_by_its_number(copy: Path) -> None:
    with (copy / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": ')
    code, output = validate(copy)
    assert code == 1
    assert "train.jsonl:63: not a conversation" in output
    assert "SHA-256" in output


def test_a_double_id_is_named_with_both_lines(copy: Path) -> None:
    change(copy, 5, id="train-000002")
    assert "train.jsonl:6: id 'train-000002' is that of line 3" in validate(copy)[1]


def test_an_answer_of_another_intent_is_named(copy: Path) -> None:
    change(copy, 0, intent="garantia")
    assert "train.jsonl:1: the answer breaks the contract" in validate(copy)[1]


def test_a_family_in_two_splits_is_a_leak(copy: Path) -> None:
    first = json.loads((copy / "heldout.jsonl").read_text(encoding="utf-8").splitlines()[0])
    change(copy, 0, family=first["family"])
    assert (
        f"heldout: 1 phrase families are trained on, first {first['family']!r}" in validate(copy)[1]
    )


def test_a_file_of_other_bytes_and_a_line_of_another_shape_are_named(copy: Path) -> None:
    (copy / "dev.jsonl").write_bytes(b"\xff\xfe")
    change(copy, 3, messages=[])
    output = validate(copy)[1]
    assert "dev.jsonl: 'utf-8' codec" in output
    assert "train.jsonl:4: not a conversation" in output


def test_an_empty_class_is_named(copy: Path) -> None:
    path = copy / "dev.jsonl"
    kept = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if json.loads(line)["intent"] != "garantia"
    ]
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    assert "dev: no conversation of intent 'garantia'" in validate(copy)[1]


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    code, output = validate(tmp_path)
    assert code == 1
    assert "manifest.json" in output


def test_statistics_count_every_conversation(dataset: Path) -> None:
    result = CliRunner().invoke(data_app, ["stats", str(dataset), "--json"])
    stats = json.loads(result.output)
    assert set(stats) == {"train", "dev", "heldout"}
    assert stats["train"]["n_conversations"] == 62 == sum(stats["train"]["intents"].values())
    assert "62 conversations" in CliRunner().invoke(data_app, ["stats", str(dataset)]).output


def test_replies_contain_no_figure_that_goes_out_of_date() -> None:
    assert validate_sources() == []


def test_a_fact_holds_between_its_days() -> None:
    facts = {fact.id: fact for fact in load_facts()}
    marbete = facts["marbete-2025-2026"]
    assert marbete.holds_on(date(2026, 1, 15))
    assert not marbete.holds_on(date(2026, 11, 1))
    assert facts["tope-efectivo"].holds_on(date(2030, 1, 1))
    assert all(figure in fact.statement for fact in facts.values() for figure in fact.figures)


def test_every_category_has_rated_answers_that_keep_the_contract(dataset: Path) -> None:
    rated = list(rated_answers(CONFIG))
    assert {r["category"] for r in rated} == {str(category) for category in CORRUPTIONS}
    for line in rated:
        assert parse_answer(line["answer"]) is not None
        wrong = line["category"] not in ("good_response", "slow_response")
        if line["correction"]:
            assert (line["answer"] != line["correction"]) == wrong, line
    assert len(read_export(dataset / "ratings.jsonl")) == len(rated)


def test_dvc_stages_call_commands_and_files_that_exist() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert load_config(ROOT / stages["data"]["deps"][0]).name == "okla-v2"
    for name in stages["calibrate"]["foreach"]:
        assert f"training/configs/{name}.yaml --out" in stages[name]["cmd"]
    commands = [stage.get("cmd", stage.get("do", {}).get("cmd")) for stage in stages.values()]
    for config in re.findall(r"--config (\S+)", " ".join(commands)):
        assert (ROOT / config).is_file()
    for stage in stages.values():
        for dep in stage.get("deps", stage.get("do", {}).get("deps", [])):
            assert dep.startswith("var/") or (ROOT / dep).exists(), dep


def messages(out: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(data_app, ["messages", "--out", str(out), *arguments])
    return result.exit_code, result.output


def test_messages_are_what_classifiers_read_with_every_intent_alike(tmp_path: Path) -> None:
    out = tmp_path / "new" / "m.jsonl"
    config = ROOT / "training" / "configs" / "okla-v2.yaml"
    code, output = messages(out, "--n", "93", "--config", str(config))
    assert code == 0, output
    data = read_training_texts(out)
    assert set(Counter(data.labels).values()) == {3}
    assert len(set(data.labels)) == 31
    assert f"sha256 {data.sha256}" in output


def test_messages_lose_no_words(tmp_path: Path) -> None:
    assert messages(tmp_path / "m.jsonl", "--n", "310")[0] == 0
    whole = [p.text for p in phrases(DataConfig(lost_words_percent=0), 310)]
    assert read_training_texts(tmp_path / "m.jsonl").texts == whole
    assert [p.text for p in phrases(DataConfig(), 310)] != whole


def test_the_same_seed_gives_the_same_messages(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert messages(tmp_path / name, "--n", "62", "--seed", seed)[0] == 0
    written = [(tmp_path / name).read_bytes() for name in "abc"]
    assert written[0] == written[1] != written[2]


def test_messages_of_a_bad_configuration_are_refused(tmp_path: Path) -> None:
    code, output = messages(tmp_path / "m.jsonl", "--config", str(tmp_path / "gone.yaml"))
    assert code == 2
    assert "gone.yaml" in output
    assert messages(tmp_path / "m.jsonl", "--n", "0")[0] == 2
    assert list(tmp_path.iterdir()) == []
