"""The example configs with the vllm engine: valid, planned, and counted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.memory import BASE_BYTES, kv_bytes, memory_need
from cluster.plan import Action, Running, make_plan
from cluster.serve_rules import Config
from cluster.validate import ServeConfig, check_files, load_serve_config
from serve_app.errors import ConfigError
from serve_app.model.folders import hash_folder

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "cluster" / "examples"
CPU, GPU = EXAMPLES / "okla_vllm.yaml", EXAMPLES / "llama3_vllm_gpu.yaml"
SHAPE = {
    "vocab_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the CPU example names, as the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "models" / "okla", tmp_path / "models" / "okla")
    folder = tmp_path / "var" / "models" / "okla-v2"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SHAPE))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / ".venv-vllm" / "bin").mkdir(parents=True)
    (tmp_path / ".venv-vllm" / "bin" / "python").touch()
    return tmp_path


def config_for(place: Path) -> ServeConfig:
    """Return the CPU example with the hash of the folder here."""
    raw = CPU.read_text()
    named = load_serve_config(CPU).models["okla-vllm"].model
    assert named is not None
    path = place / "serve.yaml"
    path.write_text(raw.replace(named.sha256, hash_folder(place / "var/models/okla-v2").sha256))
    return load_serve_config(path)


@pytest.mark.parametrize("path", [CPU, GPU], ids=lambda path: path.stem)
def test_an_example_is_valid_and_planned(path: Path) -> None:
    config = load_serve_config(path)
    plan = make_plan(Running(), config.raw)
    assert {app.action for app in plan.apps} == {Action.ADDED}
    assert "vllm" in {model.engine for model in config.models.values()}


def test_files_and_interpreter_of_the_example_are_checked(place: Path) -> None:
    config = config_for(place)
    assert check_files(config)["okla-vllm"] > 1000
    (place / "var/models/okla-v2/model.safetensors").write_bytes(b"y" * 1000)
    with pytest.raises(ConfigError, match=r"'okla-vllm'.*altered, added or taken away"):
        check_files(config)
    (place / ".venv-vllm/bin/python").unlink()
    with pytest.raises(ConfigError, match=r"\.venv-vllm/bin/python' does not exist.*make vllm"):
        check_files(config)


@pytest.mark.parametrize(
    ("value", "faulty"),
    [("python3.11", False), ("$HOME/x/python", False), ("uv run", False), ("./no/python -X", True)],
)
def test_only_paths_are_looked_for(place: Path, value: str, faulty: bool) -> None:
    config = config_for(place)
    next(a for a in config.raw["applications"] if "runtime_env" in a)["runtime_env"] = {
        "py_executable": value
    }
    if not faulty:
        check_files(config)
        return
    with pytest.raises(ConfigError, match=r"\./no/python' does not exist"):
        check_files(config)


def change(raw: Config, **changes: Any) -> Config:
    changed: Config = json.loads(json.dumps(raw))
    app = next(a for a in changed["applications"] if a["name"] == "okla-vllm")
    app |= changes
    return changed


def test_another_environment_restarts_the_application_alone() -> None:
    raw = load_serve_config(CPU).raw
    changed = change(raw, runtime_env={"py_executable": "/opt/vllm/bin/python"})
    plan = {app.name: app.action for app in make_plan(Running.from_config(raw), changed).apps}
    assert plan == {
        "gateway": Action.NONE,
        "okla-gguf": Action.NONE,
        "okla-vllm": Action.RESTART,
    }


def test_memory_of_a_vllm_replica_is_its_own_unless_a_gpu_holds_it(place: Path) -> None:
    config = config_for(place)
    model = config.models["okla-vllm"]
    assert kv_bytes(model) == 9 * (1024 + 32) * 2 * 4 * 3 * 4 * 64
    without = memory_need(config, {"okla-gguf": 0, "okla-vllm": 0}).steady_bytes
    with_weights = memory_need(config, {"okla-gguf": 0, "okla-vllm": 5 << 30}).steady_bytes
    assert with_weights - without == 5 << 30
    assert without > BASE_BYTES + (1_500 << 20)

    gpu = load_serve_config(GPU)
    assert memory_need(gpu, {"llama": 16 << 30}).steady_bytes < 4 << 30
