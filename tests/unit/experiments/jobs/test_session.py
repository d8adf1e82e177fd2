"""A job's end is always on record: success, refusal, bug, request to stop."""

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from experiments.jobs.errors import JobError, JobExit
from experiments.jobs.record import JobFolder, JobRecord, JobState, Unreadable, records
from experiments.jobs.session import Body, JobSession, run_job
from experiments.jobs.trainer_slot import trainer_slot


def run(home: Path, body: Body, job: str = "finetune-1") -> tuple[int, JobRecord, list[str]]:
    said: list[str] = []
    code = run_job("finetune", job, body, home=home, echo=said.append, nice=False)
    record = JobFolder(home, job).read()
    assert record is not None
    return code, record, said


def test_a_job_that_succeeds_leaves_record_log_and_report(tmp_path: Path) -> None:
    def body(session: JobSession) -> dict[str, Any]:
        session.say("step 1/2")
        return {"answer": 42}

    code, record, said = run(tmp_path, body)

    folder = JobFolder(tmp_path, "finetune-1")
    report = json.loads(folder.report_path.read_text())
    assert (code, record.state, record.exit_code) == (0, JobState.SUCCEEDED, 0)
    assert report["answer"] == 42
    assert report["state"] == "succeeded"
    assert said == ["step 1/2", "succeeded"]
    assert folder.log_path.read_text().count("step 1/2") == 1


def test_a_refusal_keeps_its_message_and_exit_code(tmp_path: Path) -> None:
    def body(_: JobSession) -> dict[str, Any]:
        raise JobError("disk: needs 5 GiB, 1 GiB free", JobExit.INFRASTRUCTURE)

    code, record, _ = run(tmp_path, body)

    assert code == 3
    assert record.state is JobState.FAILED
    assert record.error == "disk: needs 5 GiB, 1 GiB free"


def _no_room(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_without_room_for_the_record_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.registry.ledger.os.fsync", _no_room)

    with pytest.raises(JobError, match=r"no record can be written.*No space left") as caught:
        run_job("finetune", "finetune-1", _nothing, home=tmp_path, echo=str, nice=False)

    assert caught.value.code is JobExit.INFRASTRUCTURE
    assert not list(tmp_path.rglob("finetune-1*"))


def test_a_disk_that_fills_up_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(_: JobSession) -> dict[str, Any]:
        monkeypatch.setattr("experiments.registry.ledger.os.fsync", _no_room)
        raise OSError(errno.ENOSPC, "No space left on device", "checkpoint.pt")

    code, record, said = run(tmp_path, body)

    assert code == JobExit.INFRASTRUCTURE
    assert record.state is JobState.RUNNING  # and killed to whoever looks once the process is gone
    assert any("checkpoint.pt" in line for line in said)
    assert "how it ended cannot be written" in said[-1]


def _nothing(_: JobSession) -> dict[str, Any]:
    return {}


def test_a_bug_is_logged_with_its_traceback(tmp_path: Path) -> None:
    def body(_: JobSession) -> dict[str, Any]:
        raise ZeroDivisionError("oh")

    code, record, _ = run(tmp_path, body)

    assert (code, record.error) == (1, "ZeroDivisionError: oh")
    assert "Traceback" in JobFolder(tmp_path, "finetune-1").log_path.read_text()


def test_a_signal_stops_a_job_at_once_where_no_checkpoint_is_needed(tmp_path: Path) -> None:
    def body(_: JobSession) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on after the signal")

    code, record, _ = run(tmp_path, body)

    assert (code, record.state) == (130, JobState.STOPPED)


def test_a_signal_waits_for_a_checkpoint_and_a_second_one_does_not(tmp_path: Path) -> None:
    reached: list[str] = []

    def body(session: JobSession) -> dict[str, Any]:
        with session.stopping_at_checkpoints():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("after the first")
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("after the second")
        return {}

    code, record, _ = run(tmp_path, body)

    assert (code, record.state) == (130, JobState.STOPPED)
    assert reached == ["after the first"]


def test_signals_mean_what_they_did_before_once_a_job_has_ended(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    run(tmp_path, lambda _: {})

    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_training_is_refused_and_names_the_first(tmp_path: Path) -> None:
    with trainer_slot(tmp_path, "finetune-first"):
        code, record, _ = run(tmp_path, lambda _: {}, "finetune-second")

    assert code == 3
    assert f"finetune-first (pid {os.getpid()})" in str(record.error)
    assert run(tmp_path, lambda _: {}, "finetune-third")[0] == 0


def test_a_job_that_runs_is_not_run_twice(tmp_path: Path) -> None:
    def body(session: JobSession) -> dict[str, Any]:
        with pytest.raises(JobError, match="runs already"):
            run(tmp_path, lambda _: {}, session.submission_id)
        return {}

    assert run(tmp_path, body)[0] == 0


def test_a_process_that_is_gone_without_a_word_was_killed(tmp_path: Path) -> None:
    _, record, _ = run(tmp_path, lambda _: {})
    running = record.model_copy(update={"state": JobState.RUNNING})

    assert running.seen_state is JobState.RUNNING  # this very process
    assert running.model_copy(update={"process_created_at": 1.0}).seen_state is JobState.KILLED
    assert running.model_copy(update={"host": "elsewhere"}).seen_state is JobState.RUNNING


def test_records_are_listed_oldest_first(tmp_path: Path) -> None:
    for job in ("finetune-b", "finetune-a"):
        run(tmp_path, lambda _: {}, job)

    assert [record.submission_id for record in records(tmp_path)] == ["finetune-b", "finetune-a"]


@pytest.mark.parametrize("wrong", ["../up", "", ".hidden", "a/b", "x" * 200])
def test_an_id_that_is_no_folder_name_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(JobError, match="is no job id"):
        JobFolder(tmp_path, wrong)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    run(tmp_path, lambda _: {})
    (tmp_path / "jobs" / "finetune-1" / "job.json").write_text("{")

    with pytest.raises(JobError, match=r"job\.json cannot be read"):
        JobFolder(tmp_path, "finetune-1").read()
    (found,) = records(tmp_path)
    assert isinstance(found, Unreadable)
    assert "job.json cannot be read" in found.error
