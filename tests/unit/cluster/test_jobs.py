"""What is submitted, under which id, and which of two sources is right about a job."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.cli.jobs_output import how_to_repeat, show_jobs
from cluster.cli.main import run
from cluster.connection import Connection
from cluster.errors import CommandError, ExitCode
from cluster.jobs.api import JobsApi, RayJob, Submission
from cluster.jobs.follow import follow
from cluster.jobs.runs import settle_run
from cluster.jobs.submission import Submitter
from cluster.jobs.view import all_jobs, find
from experiments.jobs.code_state import CodeState
from experiments.jobs.record import JobFolder, JobRecord, JobState

ROOT = Path(__file__).resolve().parents[3]
SERVED = ["--target", "served", "--model", "okla-chat", "--limit", "3"]
TINY = ROOT / "training" / "configs" / "tiny.yaml"


class JobsInMemory(JobsApi):
    """Ray's side, without Ray."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9")
        self.known: dict[str, RayJob] = {}
        self.submitted: list[Submission] = []
        self.trainers = 1.0
        self.refusal: CommandError | None = None

    def submit(self, job: Submission) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.submitted.append(job)
        self.known[job.submission_id] = RayJob(
            submission_id=job.submission_id,
            status="PENDING",
            entrypoint=job.entrypoint,
            message=None,
            started_at=None,
            ended_at=None,
            exit_code=None,
        )

    def jobs(self) -> dict[str, RayJob]:
        return dict(self.known)

    def logs(self, submission_id: str) -> str | None:
        return f"driver of {submission_id}\n" if submission_id in self.known else None

    def total_of(self, resource: str) -> float:
        return self.trainers if resource == "trainer" else 0.0

    def end(self, job: str, status: str, message: str | None = None) -> None:
        ended = datetime.now(UTC)
        self.known[job] = replace(self.known[job], status=status, message=message, ended_at=ended)  # type: ignore[arg-type]


@pytest.fixture
def ray() -> JobsInMemory:
    return JobsInMemory()


@pytest.fixture
def submitter(ray: JobsInMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submitter:
    monkeypatch.setenv("CARRIL_TRACKING", "off")
    # Whoever edits code while the tests run would make it other work.
    monkeypatch.setattr("cluster.jobs.submission.code_state", lambda: CodeState(version="1"))
    elsewhere = Connection(
        dashboard_url="http://127.0.0.1:9", http_url="http://127.0.0.1:9", token=None, record=None
    )
    return Submitter(ray, elsewhere, tmp_path, lambda _: None)


Change = Callable[..., None]


@pytest.fixture
def change(tmp_path: Path) -> Change:
    """Rewrites a record, as the job itself does."""

    def change(job: str, **fields: object) -> None:
        folder = JobFolder(tmp_path, job)
        record = folder.read()
        assert record is not None
        folder.write(record.model_copy(update=fields))

    return change


def test_the_same_work_is_submitted_once(submitter: Submitter, ray: JobsInMemory) -> None:
    first = submitter.finetune(TINY, out=None, again=False)
    second = submitter.finetune(TINY, out=None, again=False)

    assert (first.new, second.new) == (True, False)
    assert first.submission_id == second.submission_id
    [job] = ray.submitted
    assert job.resources == {"trainer": 1}
    assert "-m training.jobs.finetune --config" in job.entrypoint
    assert "--resume" in job.entrypoint


@pytest.mark.parametrize("changed", ["data/train.jsonl", "base/config.json", "base/a.safetensors"])
def test_an_adapter_is_other_work_when_its_data_or_base_changed(
    submitter: Submitter, tmp_path: Path, changed: str
) -> None:
    for name in ("data/train.jsonl", "base/config.json", "base/a.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before")
    config = tmp_path / "lora.yaml"
    config.write_text(
        "{kind: lora, name: okla, version: 1.0.0, description: x, license: MIT, base: base, "
        "dataset: data, optim: {n_steps: 1}}"
    )
    first = submitter.finetune(config, out=None, again=False)
    assert not submitter.finetune(config, out=None, again=False).new

    (tmp_path / changed).write_text("afterwards")

    assert submitter.finetune(config, out=None, again=False).out != first.out


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.STOPPED])
def test_work_that_did_not_end_well_goes_on_where_it_stopped(
    submitter: Submitter, change: Change, state: JobState
) -> None:
    first = submitter.finetune(TINY, out=None, again=False)
    change(first.submission_id, state=state)

    second = submitter.finetune(TINY, out=None, again=False)

    assert second.submission_id == f"{first.submission_id}-2"
    assert second.out == first.out


def test_work_that_succeeded_is_repeated_on_request_in_a_new_folder(
    submitter: Submitter, change: Change
) -> None:
    first = submitter.finetune(TINY, out=None, again=False)
    change(first.submission_id, state=JobState.SUCCEEDED)

    assert not submitter.finetune(TINY, out=None, again=False).new
    repeated = submitter.finetune(TINY, out=None, again=True)

    assert repeated.new
    assert repeated.out != first.out


def test_a_job_in_the_queue_says_for_whom_it_waits(submitter: Submitter) -> None:
    first = submitter.finetune(TINY, out=None, again=False)

    assert submitter.evaluate(SERVED, again=False).waits_for == first.submission_id


@pytest.mark.parametrize("by_config", [True, False], ids=["config", "options"])
@pytest.mark.parametrize("changed", ["suites/golden.jsonl", "model.gguf", "train.jsonl"])
def test_an_evaluation_is_another_one_when_a_file_it_reads_changes(
    submitter: Submitter, tmp_path: Path, changed: str, by_config: bool
) -> None:
    model, suites, train = (tmp_path / name for name in ("model.gguf", "suites", "train.jsonl"))
    suites.mkdir()
    for path in (model, suites / "golden.jsonl", train):
        path.write_text("before")
    given = ["--target", "gguf", "--model", str(model), "--suite", str(suites)]
    given += ["--train", str(train)]
    if by_config:
        config = tmp_path / "evaluation.yaml"
        config.write_text(f"{{target: gguf, model: {model}, suites: [{suites}], train: {train}}}")
        given = ["--config", str(config)]
    one = submitter.evaluate(given, again=False)
    assert not submitter.evaluate(given, again=False).new

    (tmp_path / changed).write_text("after")

    assert submitter.evaluate(given, again=False).new
    (tmp_path / changed).write_text("before")
    assert submitter.evaluate(given, again=False).submission_id == one.submission_id


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param([], "either --config or --target", id="nothing"),
        pytest.param(["--target", "guff"], "target", id="unknown target"),
        pytest.param(["--target", "gguf"], "needs a model", id="no model"),
        pytest.param(["--config", "no.yaml"], "no.yaml", id="no file"),
    ],
)
def test_an_evaluation_that_cannot_be_made_is_not_submitted(
    submitter: Submitter, ray: JobsInMemory, given: list[str], message: str
) -> None:
    with pytest.raises(CommandError, match=message) as caught:
        submitter.evaluate(given, again=False)
    assert caught.value.code is ExitCode.USAGE
    assert not ray.submitted


def test_a_refused_submission_leaves_nothing(
    submitter: Submitter, ray: JobsInMemory, tmp_path: Path
) -> None:
    ray.refusal = CommandError("no")

    with pytest.raises(CommandError, match="no"):
        submitter.finetune(TINY, out=None, again=False)

    assert all_jobs(tmp_path, ray) == []


def test_a_cluster_without_trainer_is_refused(submitter: Submitter, ray: JobsInMemory) -> None:
    ray.trainers = 0

    with pytest.raises(CommandError, match="has no resource 'trainer'") as refused:
        submitter.finetune(TINY, out=None, again=False)

    assert refused.value.code is ExitCode.INFRASTRUCTURE


def test_a_broken_configuration_is_a_usage_error(submitter: Submitter, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: Not Allowed")

    with pytest.raises(CommandError, match=r"broken\.yaml.*name: ") as refused:
        submitter.finetune(path, out=None, again=False)

    assert refused.value.code is ExitCode.USAGE


def test_a_job_that_failed_before_its_own_code_is_described_by_ray(
    submitter: Submitter, ray: JobsInMemory, tmp_path: Path
) -> None:
    job = submitter.finetune(TINY, out=None, again=False).submission_id
    ray.end(job, "FAILED", "No module named 'training'")

    view = find(tmp_path, ray, job)

    assert (view.state, view.error) == (JobState.FAILED, "No module named 'training'")
    gone = find(tmp_path, None, job)  # kept, though the cluster is not
    assert (gone.state, gone.error) == (view.state, view.error)
    assert JobFolder(tmp_path, job).driver_log_path.read_text() == f"driver of {job}\n"


def test_a_job_that_vanished_with_its_cluster_was_killed(
    submitter: Submitter, tmp_path: Path
) -> None:
    job = submitter.finetune(TINY, out=None, again=False).submission_id

    view = find(tmp_path, None, job)

    assert view.state is JobState.KILLED
    assert "killed" in str(view.error)


def test_what_a_job_says_of_itself_counts_more_than_what_ray_saw(
    submitter: Submitter, ray: JobsInMemory, tmp_path: Path, change: Change
) -> None:
    job = submitter.finetune(TINY, out=None, again=False).submission_id
    change(job, state=JobState.STOPPED, error="stopped on request", exit_code=130)
    ray.end(job, "FAILED", "exit code 130")

    assert find(tmp_path, ray, job).error == "stopped on request"


def test_a_job_that_is_not_ours_is_listed_too(ray: JobsInMemory, tmp_path: Path) -> None:
    ray.submit(Submission(submission_id="raysubmit_x", entrypoint="echo"))

    [view] = all_jobs(tmp_path, ray)

    assert (view.submission_id, view.record) == ("raysubmit_x", None)


def test_a_job_without_a_record_has_the_times_that_ray_knows(
    ray: JobsInMemory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.submit(Submission(submission_id="raysubmit_x", entrypoint="echo"))
    started = datetime(2026, 1, 31, 8, 0, 5, tzinfo=UTC)
    ended = started + timedelta(seconds=65)
    ray.known["raysubmit_x"] = replace(
        ray.known["raysubmit_x"], status="SUCCEEDED", started_at=started, ended_at=ended
    )

    show_jobs(all_jobs(tmp_path, ray), as_json=False)

    shown = capsys.readouterr().out
    assert "2026-01-31 08:00:05" in shown
    assert "1:05" in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema_version": 1, "submiss', "cannot be read"),
        ('{"schema_version": 99}', "schema_version"),
    ],
)
def test_one_record_that_cannot_be_read_hides_no_other_job(
    submitter: Submitter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    said: str,
) -> None:
    broken = submitter.evaluate(SERVED, again=False).submission_id
    whole = submitter.finetune(TINY, out=None, again=False).submission_id
    (JobFolder(tmp_path, broken).path / "job.json").write_text(text, encoding="utf-8")
    monkeypatch.setenv("CARRIL_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_DASHBOARD_ADDRESS", raising=False)

    assert run(["jobs", "ls", "--json"]) == 0

    listed = {job["submission_id"]: job for job in json.loads(capsys.readouterr().out)}
    assert listed.keys() == {broken, whole}
    assert listed[broken]["state"] == "unreadable"
    assert said in listed[broken]["error"]
    assert listed[whole]["error"] != listed[broken]["error"]
    assert run(["jobs", "status", broken]) == 0
    assert said in capsys.readouterr().out


def test_work_whose_record_cannot_be_read_is_submitted_under_another_id(
    submitter: Submitter, ray: JobsInMemory, tmp_path: Path
) -> None:
    first = submitter.evaluate(SERVED, again=False).submission_id
    ray.end(first, "FAILED", "exit code 1")
    (JobFolder(tmp_path, first).path / "job.json").write_text("", encoding="utf-8")

    second = submitter.evaluate(SERVED, again=False)

    assert (second.submission_id, second.new) == (f"{first}-2", True)


def test_a_job_is_found_by_how_its_id_begins(submitter: Submitter, tmp_path: Path) -> None:
    job = submitter.finetune(TINY, out=None, again=False).submission_id
    submitter.evaluate(SERVED, again=False)

    assert find(tmp_path, None, "fine").submission_id == job
    with pytest.raises(CommandError, match="matches several"):
        find(tmp_path, None, "")
    with pytest.raises(CommandError, match="is no job"):
        find(tmp_path, None, "nope")


def test_the_way_on_names_checkpoints_only_where_there_are_some(
    submitter: Submitter, tmp_path: Path
) -> None:
    submitter.finetune(TINY, out=None, again=False)
    submitter.evaluate(SERVED, again=False)
    training, evaluation = (find(tmp_path, None, kind).record for kind in ("finetune", "evaluate"))
    assert training is not None
    assert evaluation is not None

    assert "from its checkpoint" in how_to_repeat(training)
    assert how_to_repeat(training).endswith(f"jobs submit finetune --config {TINY}")
    assert "checkpoint" not in how_to_repeat(evaluation)
    assert how_to_repeat(evaluation).endswith(f"jobs submit evaluate {' '.join(SERVED)}")


def test_following_shows_every_line_once(
    submitter: Submitter, ray: JobsInMemory, tmp_path: Path, change: Change
) -> None:
    job = submitter.finetune(TINY, out=None, again=False).submission_id
    shown: list[str] = []

    def write(text: str) -> None:
        shown.append(text)
        folder = JobFolder(tmp_path, job)
        if len(shown) == 1:
            folder.log_path.write_text("one\n")
        elif len(shown) == 2:
            folder.log_path.write_text("one\ntwo\n")
            change(job, state=JobState.SUCCEEDED)

    ended = follow(tmp_path, ray, job, write=write)

    assert ended.state is JobState.SUCCEEDED
    assert "".join(shown) == f"driver of {job}\none\ntwo\n"


def test_a_record_is_what_it_was_written_as(submitter: Submitter, tmp_path: Path) -> None:
    job = submitter.finetune(TINY, out=None, again=False).submission_id
    raw = (JobFolder(tmp_path, job).path / "job.json").read_bytes()

    record = JobRecord.model_validate_json(raw)

    assert record.state is JobState.SUBMITTED
    assert record.config == str(TINY)


class Runs:
    """Keeps what a tracking store is told."""

    def __init__(self) -> None:
        self.run_id = "r1"
        self.n_failures = 0
        self.metrics: dict[str, float] = {}
        self.ended: list[str] = []

    def log_metrics(self, metrics: dict[str, float]) -> None:
        self.metrics |= metrics

    def log_artifact(self, path: Path) -> None:
        assert path.is_file()

    def end(self, status: str) -> None:
        self.ended.append(status)


def test_the_run_of_a_killed_job_is_ended_once(
    submitter: Submitter, tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs()
    monkeypatch.setattr("cluster.jobs.runs.start_run", lambda *_, **__: runs)
    job = submitter.finetune(TINY, out=None, again=False).submission_id
    change(job, run_id="r1")
    JobFolder(tmp_path, job).put("report.json", '{"metrics": {"accuracy": 0.5}}')

    for _ in range(2):
        settle_run(tmp_path, find(tmp_path, None, job), say=lambda _: None)

    assert runs.ended == ["KILLED"]
    assert runs.metrics == {"accuracy": 0.5}


def test_a_training_that_ended_by_itself_has_ended_its_run(
    submitter: Submitter, tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs()
    monkeypatch.setattr("cluster.jobs.runs.start_run", lambda *_, **__: runs)
    job = submitter.finetune(TINY, out=None, again=False).submission_id
    change(job, run_id="r1", state=JobState.SUCCEEDED)

    settle_run(tmp_path, find(tmp_path, None, job), say=lambda _: None)

    assert runs.ended == []
