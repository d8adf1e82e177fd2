"""What `carril deploy` refuses before it reaches a cluster."""

import hashlib
from pathlib import Path

import pytest

from cluster.validate import check_files, load_serve_config
from serve_app.errors import ConfigError

GOOD = """
applications:
- name: okla-stable
  import_path: serve_app.app:build_model
  deployments:
  - name: model
    user_config: {engine: llama_cpp, model: {path: MODEL, sha256: SHA}}
- name: gateway
  import_path: serve_app.app:build_gateway
  deployments:
  - name: gateway
    user_config:
      models: {okla-chat: {experiment: exp}}
      variants: {stable: {app: okla-stable}, candidate: {app: okla-stable}}
      experiments:
        exp: {salt: s, control: stable, allocation: {stable: 90, candidate: 10}}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF and more")
    return path


@pytest.fixture
def good(model: Path) -> str:
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    return GOOD.replace("MODEL", str(model)).replace("SHA", sha256)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "serve_config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_is_read_with_its_hashes_and_sizes(tmp_path: Path, good: str) -> None:
    config = load_serve_config(write(tmp_path, good))

    assert config.app_names == ["okla-stable", "gateway"]
    assert set(config.expected_hashes()) == {"okla-stable", "gateway"}
    assert check_files(config) == {"okla-stable": 13}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        pytest.param("stable: 90", "stable: 91", "add up to 101 %", id="weights"),
        pytest.param("{app: okla-stable}, c", "{app: nope}, c", "no model application", id="app"),
        pytest.param("control: stable", "control: other", "control 'other'", id="control"),
        pytest.param("user_config:\n", "user_confg:\n", "unknown option", id="misspelt option"),
        pytest.param("engine: llama_cpp", "engine: gpt", "engine", id="engine"),
        pytest.param("name: gateway\n  import", "name: okla-stable\n  import", "twice", id="name"),
        pytest.param("serve_app.app:build_model", "", "import_path is missing", id="path"),
        pytest.param("salt: s,", "salt: s, salt: t,", "appears twice", id="duplicate key"),
        pytest.param("applications:", "apps:", "at least one application", id="no applications"),
    ],
)
def test_a_faulty_file_is_refused_with_the_reason(
    tmp_path: Path, good: str, old: str, new: str, reason: str
) -> None:
    path = write(tmp_path, good.replace(old, new, 1))

    with pytest.raises(ConfigError, match=reason):
        load_serve_config(path)


def test_variants_may_be_adapters_over_one_base(tmp_path: Path, good: str, model: Path) -> None:
    adapter = tmp_path / "a.gguf"
    adapter.write_bytes(b"GGUF adapter")
    sha256 = hashlib.sha256(adapter.read_bytes()).hexdigest()
    entry = f"sha256: {hashlib.sha256(model.read_bytes()).hexdigest()}}}"
    adapters = f"{entry}, adapters: {{a: {{path: {adapter}, sha256: {sha256}}}}}"
    text = good.replace(entry, adapters).replace(
        "candidate: {app: okla-stable}", "candidate: {app: okla-stable, adapter: a}"
    )
    config = load_serve_config(write(tmp_path, text))
    assert config.models["okla-stable"].total_slots == 2 * config.models["okla-stable"].n_slots
    check_files(config)

    for faulty, reason in (
        (text.replace("adapter: a}", "adapter: b}"), r"unknown adapter 'b'; 'okla-stable' has"),
        (text.replace(entry, f"{entry}, serve_base: false"), "'stable' names no adapter"),
        (good.replace(entry, f"{entry}, serve_base: false"), "nothing would answer"),
        (text.replace("llama_cpp", "echo"), "adapters are for llama_cpp, not for 'echo'"),
    ):
        with pytest.raises(ConfigError, match=reason):
            load_serve_config(write(tmp_path, faulty))
    adapter.write_bytes(b"GGUF another")
    with pytest.raises(ConfigError, match=r"adapter 'a': .*was altered"):
        check_files(config)


def test_a_network_needs_keys_or_an_explicit_word(tmp_path: Path, good: str) -> None:
    opened = "http_options: {host: 0.0.0.0}" + good
    with pytest.raises(ConfigError, match="no API keys"):
        load_serve_config(write(tmp_path, opened))
    for auth in ("{allow_anonymous: true}", "{keys: [{name: a, sha256: %s}]}" % ("0" * 63 + "a")):
        said = opened.replace("      models:", f"      auth: {auth}\n      models:", 1)
        assert load_serve_config(write(tmp_path, said)).app_names


def test_all_faults_are_reported_at_once(tmp_path: Path, good: str) -> None:
    text = good.replace("stable: 90", "stable: 91").replace("engine: llama_cpp", "engine: gpt")

    with pytest.raises(ConfigError) as raised:
        load_serve_config(write(tmp_path, text))

    assert "has 2 faults" in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_serve_config(tmp_path / "none.yaml")


def test_an_altered_model_is_refused(tmp_path: Path, good: str, model: Path) -> None:
    config = load_serve_config(write(tmp_path, good))
    model.write_bytes(b"GGUF and else")

    with pytest.raises(ConfigError, match="was altered or is another one"):
        check_files(config)


def test_a_missing_model_is_refused(tmp_path: Path, good: str, model: Path) -> None:
    config = load_serve_config(write(tmp_path, good))
    model.unlink()

    with pytest.raises(ConfigError, match="does not exist"):
        check_files(config)


def test_a_missing_profile_is_refused(tmp_path: Path, good: str) -> None:
    text = good.replace("{engine: llama_cpp,", "{engine: llama_cpp, profile: /nowhere,")

    with pytest.raises(ConfigError, match="profile '/nowhere' is no directory"):
        check_files(load_serve_config(write(tmp_path, text)))
