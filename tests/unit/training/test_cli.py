"""The commands, as a terminal runs them."""

import json
import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "transformers", "tokenizers", "gguf", "llama_cpp", "numpy")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_importing_the_commands_loads_nothing_heavy() -> None:
    code = f"import sys, training.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run("-c", code).stdout.strip() == "[]"


def test_generate_prints_the_manifest_as_json(tmp_path: Path) -> None:
    done = run("-m", "training.data.generate", "--out", str(tmp_path), "--n", "62", "--json")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert manifest["splits"]["train"]["n_conversations"] == 62
    assert (tmp_path / "train.jsonl").exists()
    assert manifest["natural"]["file"] == "natural.jsonl"
    assert (tmp_path / "natural.jsonl").exists()


def test_a_wrong_configuration_is_a_usage_error(tmp_path: Path) -> None:
    arguments = ("--config", str(tmp_path / "none.yaml"), "--out", str(tmp_path))
    done = run("-m", "training.train", *arguments)
    assert done.returncode == 2
    assert "none.yaml" in done.stderr
    assert done.stdout == ""
