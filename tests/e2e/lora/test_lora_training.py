"""A LoRA training goes the whole way on a tiny base: learnt, merged, exported, proven, resumed."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import pytest
import yaml
from transformers import LlamaForCausalLM

from experiments.jobs.record import JobState, records
from tests.e2e.lora.bases import CHATML, write_base, write_dataset
from training.errors import ArtefactError, ExportError, TrainingError
from training.lora.base import open_base
from training.lora.config import SystemPrompt, TemplateSource, load_config
from training.lora.dataset import read_dataset
from training.lora.encoding import TemplateEncoder
from training.lora.parity import check_parity
from training.lora.pipeline import LoraRun
from training.manifest import verify_model


def a_config(base: Path, dataset: Path, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "lora",
        "name": "tiny",
        "version": "0.1.0",
        "license": "Apache-2.0",
        "base": str(base),
        "dataset": str(dataset),
        "system_prompt": "none",
        "device": "cpu",
        "threads": 1,
        "base_gguf": True,
        "adapter": {"rank": 4, "alpha": 16, "dropout": 0.1},
        "optim": {
            "n_steps": 12,
            "batch_size": 4,
            "micro_batch_size": 2,
            "max_tokens": 256,
            "learning_rate": 0.02,
            "warmup_steps": 2,
            "checkpoint_every_steps": 5,
        },
        "sample": {"every_steps": 6, "n_conversations": 2, "max_new_tokens": 24, "n_final": 3},
        **changes,
    }


def write_config(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def command(config: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "training.lora", "--config", str(config), "--out", str(out)]


def run(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, out), capture_output=True, text=True, check=False)


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    write_base(folder / "base")
    write_dataset(folder / "data")
    write_config(folder / "config.yaml", a_config(Path("base"), Path("data")))
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    done = run(folder / "config.yaml", folder / "whole")
    assert done.returncode == 0, done.stderr
    return folder / "whole"


def test_the_adapter_learns(finished: Path) -> None:
    steps = metrics_of(finished)
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert steps[-1]["dev_loss"] < steps[5]["dev_loss"]
    assert 0 <= steps[-1]["dev_json_validity"] <= 1
    assert all(line["perplexity"] > 1 and line["tokens_per_second"] > 0 for line in steps)


def test_the_manifest_ties_the_quantised_file(finished: Path) -> None:
    manifest = verify_model(finished / "tiny.manifest.json")
    assert manifest.file == "tiny.Q4_K_M.gguf"
    assert set(manifest.tensor_types) == {"F32", "Q4_K", "Q6_K"}
    assert manifest.metrics.n_conversations == 3


def test_the_result_registers_with_its_configuration_and_profile(
    folder: Path, finished: Path, tmp_path: Path
) -> None:
    environment = os.environ | {"CARRIL_HOME": str(tmp_path), "CARRIL_TRACKING": "off"}
    manifest = finished / "tiny.manifest.json"
    register = ["models", "register", str(manifest), "--config", str(folder / "config.yaml")]
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli.main", *register],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (kept,) = tmp_path.rglob("chat_template.jinja")
    assert kept.read_text(encoding="utf-8") == CHATML


def test_merged_network_and_adapter_on_base_agree_with_the_files(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    merged, on_base = report["parity"]
    assert merged["n_prompts"] == on_base["n_prompts"] == 4
    assert max(p["logit_difference"] for p in (merged, on_base)) < 0.005


def test_without_its_adapter_the_base_is_another_model(folder: Path, finished: Path) -> None:
    base = open_base(folder / "base", template=TemplateSource.BASE, q4_k_m=True)
    merged = LlamaForCausalLM.from_pretrained(finished / "hf").eval()
    encoder = TemplateEncoder(base, prompt=SystemPrompt.NONE)
    examples = read_dataset(folder / "data").dev[:2]
    model, adapter = finished / "tiny.base.F16.gguf", finished / "tiny.adapter.gguf"
    check = partial(check_parity, merged, encoder, examples, model, template=CHATML, threads=1)
    assert check(adapter=adapter).logit_difference < 0.005
    with pytest.raises(ExportError, match=r"tiny\.base\.F16\.gguf: logits differ"):
        check()
    with pytest.raises(ArtefactError, match=r"cannot lay .*tiny\.F16\.gguf"):
        check(adapter=finished / "tiny.F16.gguf")


def test_the_lock_says_on_what_the_run_stands(finished: Path) -> None:
    lock = json.loads((finished / "run.lock.json").read_text())
    assert lock["placement"]["quant_backend"] == "none"
    assert "bitsandbytes" in lock["placement"]["quant_reason"]
    assert {"base", "dataset", "code", "hardware", "seeds", "locks"} <= set(lock)


def test_the_adapter_file_is_what_llama_cpp_expects(finished: Path) -> None:
    reader = gguf.GGUFReader(finished / "tiny.adapter.gguf")
    fields = {key: reader.fields[key].contents() for key in reader.fields}
    assert fields["general.type"] == "adapter"
    assert fields["adapter.type"] == "lora"
    assert fields["adapter.lora.alpha"] == 16
    names = {tensor.name for tensor in reader.tensors}
    assert len(names) == 2 * 2 * 7  # both halves of the 7 matrices of 2 layers
    assert {"blk.0.attn_q.weight.lora_a", "blk.1.ffn_down.weight.lora_b"} <= names


def test_the_chat_template_of_the_base_ships(finished: Path) -> None:
    fields = gguf.GGUFReader(finished / "tiny.Q4_K_M.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == CHATML


SIGNAL_AT_STEP = """
import os, sys
from training.lora import metrics
from training.lora.__main__ import main

number, step = int(sys.argv.pop(1)), int(sys.argv.pop(1))
append = metrics.MetricsFile.append

def append_and_signal(self, line):
    append(self, line)
    if line.step == step:
        os.kill(os.getpid(), number)

metrics.MetricsFile.append = append_and_signal
main()
"""
"""The command, which a signal hits in the middle of a step between two checkpoints."""


def signalled(
    config: Path, out: Path, number: signal.Signals, step: int
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SIGNAL_AT_STEP, f"{number:d}", f"{step}", *command(config, out)[3:]],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_training_killed_and_stopped_ends_as_a_job_with_the_same_adapter(
    folder: Path, finished: Path, tmp_path: Path
) -> None:
    config, out = folder / "config.yaml", tmp_path / "stopped"
    killed = signalled(config, out, signal.SIGKILL, 8)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    stopped = signalled(config, out, signal.SIGTERM, 9)
    assert "resuming at step 5" in stopped.stderr
    assert "stopped after step 9 of 12" in stopped.stderr
    assert stopped.returncode == 130
    assert not (out / "adapter").exists()
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-m", "training.jobs.finetune", "--resume", *command(config, out)[3:]],
        env=os.environ | {"CARRIL_HOME": str(home), "CARRIL_TRACKING": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "resuming at step 9" in done.stderr
    (job,) = records(home)
    assert job.state is JobState.SUCCEEDED
    weights = "adapter/adapter_model.safetensors"
    assert (out / weights).read_bytes() == (finished / weights).read_bytes()
    assert losses_of(out) == losses_of(finished)
    assert len(json.loads((out / "run.lock.json").read_text())["resumed_from"]) == 2


def test_a_checkpoint_of_other_data_is_refused(
    folder: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "other"
    out.mkdir()
    (out / "checkpoint.pt").write_bytes((finished / "checkpoint.pt").read_bytes())
    (out / "run.lock.json").write_bytes((finished / "run.lock.json").read_bytes())
    write_dataset(tmp_path / "data", n_train=20)
    config = write_config(tmp_path / "c.yaml", a_config(folder / "base", tmp_path / "data"))
    with pytest.raises(TrainingError, match="another configuration, base, dataset or device"):
        LoraRun(load_config(config), out, report=lambda _: None).run()
    assert sorted(p.name for p in out.iterdir()) == ["checkpoint.pt", "run.lock.json"]
    assert (out / "run.lock.json").read_bytes() == (finished / "run.lock.json").read_bytes()


def test_our_own_network_takes_an_adapter_in_bf16_and_ships_as_f16(
    folder: Path, tmp_path: Path
) -> None:
    write_base(tmp_path / "base", ours=True, tie_word_embeddings=True, intermediate_size=320)
    content = a_config(
        tmp_path / "base",
        folder / "data",
        chat_template="profile",
        system_prompt="profile",
        precision="bf16",
        merge_precision="bf16",
        q4_k_m=False,
        adapter={"rank": 2, "target_modules": ["q_proj", "v_proj"]},
    )
    content["optim"] |= {"n_steps": 2, "max_tokens": 1024}
    config = load_config(write_config(tmp_path / "c.yaml", content))
    manifest = LoraRun(config, tmp_path / "out", report=lambda _: None).run()
    assert verify_model(tmp_path / "out" / "tiny.manifest.json") == manifest
    assert (manifest.file, manifest.quantisation) == ("tiny.F16.gguf", "F16")
    assert set(manifest.tensor_types) == {"F16", "F32"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert max(p["logit_difference"] for p in report["parity"]) < 0.02


def losses_of(out: Path) -> list[float]:
    return [line["loss"] for line in metrics_of(out)]
