"""Editing a config as text."""

from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from cluster.config_edit import Target, find_target, insert_before, replace_value, serve_file
from cluster.validate import load_serve_config
from experiments.registry.profile import ServedFiles
from serve_app.errors import ConfigError

SHIPPED = Path(__file__).parents[3] / "serve_config.yaml"
SHA256 = "ab" * 32
BLOB = f"/var/lib/carril/registry/blobs/ab/{SHA256}.gguf"

FILES = ServedFiles(Path(BLOB), None)
PROFILE = "/var/lib/carril/registry/models/okla/2.0.0/profile"


@pytest.fixture
def text() -> str:
    return SHIPPED.read_text(encoding="utf-8")


def changed_lines(before: str, after: str) -> list[str]:
    return [line.strip() for line in after.splitlines() if line not in before.splitlines()]


def serve(text: str, *, control: bool, variant: str | None = None) -> str:
    target = find_target(yaml.safe_load(text), control=control, variant=variant)
    return serve_file(text, target, files=FILES, sha256=SHA256)


def test_a_base_that_adapters_share_is_not_exchanged_for_one_of_them(text: str) -> None:
    shared = text.replace("{app: okla-candidate}", "{app: okla-stable, adapter: tuned}")
    for control in (True, False):
        with pytest.raises(ConfigError, match=r"\['candidate', 'stable'\]: another model file"):
            serve(shared, control=control)


@pytest.mark.parametrize(
    ("control", "app"), [(True, "okla-stable"), (False, "okla-candidate")], ids=["champion", "chal"]
)
def test_only_what_changes_is_touched(text: str, tmp_path: Path, control: bool, app: str) -> None:
    edited = serve(text, control=control)
    assert changed_lines(text, edited) == [
        "version: 2",
        "allocation: {stable: 100, candidate: 0}",
        f"path: {BLOB}",
        f'sha256: "{SHA256}"',
    ]
    path = tmp_path / "serve_config.yaml"
    path.write_text(edited, encoding="utf-8")
    config = load_serve_config(path)
    model = config.models[app].model
    assert model is not None
    assert (model.path, model.sha256) == (BLOB, SHA256)
    experiment = config.gateways["gateway"].experiments["okla-v1-v2"]
    assert experiment.version == 2
    assert experiment.allocation == {"stable": Decimal(100), "candidate": Decimal(0)}


def test_the_profile_goes_with_the_model(text: str) -> None:
    target = find_target(yaml.safe_load(text), control=True, variant=None)
    files = ServedFiles(Path(BLOB), Path(PROFILE))
    edited = serve_file(text, target, files=files, sha256=SHA256)
    assert edited.count(f"          profile: {PROFILE}\n") == 1
    assert edited.count("profile: models/okla/profile") == 1  # the other variant's
    without = text.replace("          profile: models/okla/profile\n", "")
    added = serve_file(without, target, files=files, sha256=SHA256)
    assert changed_lines(without, added)[-3] == f"profile: {PROFILE}"
    assert yaml.safe_load(added)["applications"][1] == yaml.safe_load(edited)["applications"][1]


def test_the_next_promotion_raises_the_version_again(text: str) -> None:
    twice = serve(serve(text, control=False), control=True)
    assert twice.count("version:") == 1
    assert "              version: 3\n              salt: okla-v1-v2\n" in twice


@pytest.mark.parametrize(
    ("variant", "app"), [("stable", "okla-stable"), ("candidate", "okla-candidate")]
)
def test_a_variant_can_be_named(text: str, variant: str, app: str) -> None:
    target = find_target(yaml.safe_load(text), control=True, variant=variant)
    assert target == Target(variant=variant, app=app, experiment="okla-v1-v2")


def test_an_unknown_variant_is_named_with_those_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match=r"'beta'; configured: \['candidate', 'stable'\]"):
        find_target(yaml.safe_load(text), control=True, variant="beta")


def test_a_config_that_leaves_a_choice_is_not_guessed_at(text: str) -> None:
    raw = yaml.safe_load(text)
    gateway = raw["applications"][0]["deployments"][0]["user_config"]
    gateway["experiments"]["okla-v1-v2"]["allocation"] = {"stable": 80, "candidate": 10, "c": 10}
    gateway["variants"]["c"] = {"app": "okla-candidate"}
    with pytest.raises(ConfigError, match=r"2 treatment variants .* --variant"):
        find_target(raw, control=False, variant=None)


def test_a_pinned_model_without_experiment_keeps_its_traffic(text: str) -> None:
    raw = yaml.safe_load(text)
    gateway = raw["applications"][0]["deployments"][0]["user_config"]
    gateway["experiments"] = {}
    gateway["models"] = {"okla-chat": {"variant": "stable"}}
    target = find_target(raw, control=True, variant="stable")
    edited = yaml.safe_load(
        serve_file(yaml.safe_dump(raw, sort_keys=False), target, files=FILES, sha256=SHA256)
    )
    raw["applications"][1]["deployments"][0]["user_config"]["model"] = {
        "path": BLOB,
        "sha256": SHA256,
    }
    assert edited == raw


def test_an_echo_application_has_no_file_to_replace(text: str) -> None:
    raw = yaml.safe_load(text)
    del raw["applications"][1]["deployments"][0]["user_config"]["model"]
    raw["applications"][1]["deployments"][0]["user_config"]["engine"] = "echo"
    with pytest.raises(ConfigError, match=r"user_config.model is not in the config"):
        serve(yaml.safe_dump(raw), control=True)


@pytest.mark.parametrize("value", ["1234", "1e5", "yes", "null", "a: b", "#x", "", "ñandú", "a b"])
def test_text_stays_text(value: str) -> None:
    edited = replace_value("# why\na: {b: 'old'}  # because\n", ("a", "b"), value)
    assert yaml.safe_load(edited) == {"a": {"b": value}}
    assert edited.startswith("# why\n")
    assert edited.endswith("  # because\n")


@pytest.mark.parametrize("text", ["a:\n  b: 1\n", "a: {b: 1}\n", "a: {c: 2, b: 1}\n", "a:\n- b: 1"])
def test_a_key_goes_before_another_one_in_any_layout(text: str) -> None:
    path = ("a", 0, "b") if "- b" in text else ("a", "b")
    parsed = yaml.safe_load(insert_before(text, path, "new", 7))["a"]
    assert (parsed[0] if isinstance(parsed, list) else parsed) | {"c": 2} == {
        "new": 7,
        "b": 1,
        "c": 2,
    }


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("a", "z"), r"a\.z is not in the config"),
        (("a",), "a is no single value"),
        (("l", 5), r"l\.5 is not in the config"),
    ],
)
def test_a_place_that_is_not_there_is_named(path: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace_value("a: {b: 1}\nl: [1]\n", path, "x")
