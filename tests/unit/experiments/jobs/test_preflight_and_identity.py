"""What is checked before a job, and what it is called."""

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from experiments.jobs import preflight
from experiments.jobs.code_state import code_state
from experiments.jobs.errors import JobError
from experiments.jobs.identity import attempt_id, local_id, ray_submission_id, work_id


def test_a_disk_that_is_too_small_is_told_with_numbers(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free

    check = preflight.disk(tmp_path / "not" / "there", free + (1 << 40))

    assert not check.ok
    needed = re.match(r"needs about ([\d,.]+) GiB", check.detail)
    assert needed is not None
    assert float(needed[1].replace(",", "")) == pytest.approx((free + (1 << 40)) / 2**30, rel=1e-3)
    assert "GiB free at" in check.detail
    assert preflight.disk(tmp_path, 1).ok


def test_all_that_is_in_the_way_is_told_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    checks = [
        preflight.packages(["json", "no_such_package"], target="training"),
        preflight.memory(1 << 60),
        preflight.memory(1),
    ]

    with pytest.raises(JobError) as refused:
        preflight.require(checks, say=said.append)

    assert "no_such_package; make training" in refused.value.message
    assert "memory: needs about" in refused.value.message
    assert [": ok, " in line for line in said] == [False, False, True]


def test_a_cluster_is_only_asked_for_inside_one() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{probe.getsockname()[1]}"

    assert preflight.cluster({"RAY_ADDRESS": gone}).ok
    check = preflight.cluster({"RAY_ADDRESS": gone, "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"})
    assert not check.ok
    assert gone in check.detail


def test_the_same_work_has_the_same_id() -> None:
    one = work_id("finetune", config_sha256="a", code_identity="1")

    assert one == work_id("finetune", config_sha256="a", code_identity="1")
    others = {
        work_id("evaluate", config_sha256="a", code_identity="1"),
        work_id("finetune", config_sha256="b", code_identity="1"),
        work_id("finetune", config_sha256="a", code_identity="2"),
    }
    assert one not in others
    assert len(others) == 3
    assert [attempt_id(one, n) for n in (1, 2)] == [one, f"{one}-2"]
    assert local_id(one).startswith(f"{one}-")


def test_ray_says_under_which_id_a_process_runs() -> None:
    config = {"runtime_env": {}, "metadata": {"job_submission_id": "finetune-1"}}

    assert ray_submission_id({"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(config)}) == "finetune-1"
    assert ray_submission_id({"RAY_JOB_CONFIG_JSON_ENV_VAR": "nonsense"}) is None
    assert ray_submission_id({}) is None


def test_an_uncommitted_change_is_part_of_the_codes_identity(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        own = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *own, *arguments], cwd=tmp_path, check=True, capture_output=True)

    outside = code_state(tmp_path)
    git("init", "-q")
    used, unused = tmp_path / "training" / "a.py", tmp_path / "README.md"
    used.parent.mkdir()
    used.write_text("x = 1\n")
    unused.write_text("one\n")
    git("add", ".")
    git("commit", "-qm", "one")
    unused.write_text("two\n")
    clean = code_state(tmp_path)
    used.write_text("x = 2\n")
    dirty = code_state(tmp_path)

    assert (outside.commit, outside.dirty) == (None, None)
    assert (clean.dirty, dirty.dirty) == (False, True)
    assert clean.commit == dirty.commit
    assert len({outside.identity, clean.identity, dirty.identity}) == 3
