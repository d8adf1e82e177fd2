"""How jobs look in the terminal and as JSON."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.table import Table

from cluster.cli.console import command_name, note, out, print_json
from cluster.jobs.submission import Submitted
from cluster.jobs.view import JobView
from experiments.jobs.record import JobState

if TYPE_CHECKING:
    from experiments.jobs.record import JobRecord

_COLOURS = {
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.KILLED: "red",
    JobState.UNREADABLE: "red",
    JobState.STOPPED: "yellow",
}


def show_submitted(submitted: Submitted, *, as_json: bool, another: str = "--again") -> None:
    """Say what became of a submission.

    Args:
        submitted: What became of it.
        as_json: Whether to print JSON.
        another: How to get a new attempt where the work is known already.
    """
    name, job = command_name(), submitted.submission_id
    if as_json:
        print_json(
            {
                "submission_id": job,
                "new": submitted.new,
                "state": submitted.state.value,
                "out": submitted.out,
                "run_id": submitted.run_id,
                "waits_for": submitted.waits_for,
            }
        )
    else:
        out.print(job, markup=False, highlight=False, soft_wrap=True)
    if not submitted.new:
        done = "has succeeded" if submitted.state is JobState.SUCCEEDED else "runs already"
        note(f"this work {done} as {job}; nothing was started. A new attempt: {another}")
        return
    if submitted.waits_for:
        note(f"it waits for the trainer, which {submitted.waits_for} has")
    note(f"follow it: {name} jobs logs -f {job}   stop it: {name} jobs stop {job}")


def show_jobs(jobs: Sequence[JobView], *, as_json: bool) -> None:
    """List jobs."""
    if as_json:
        print_json([job.as_json() for job in jobs])
        return
    if not jobs:
        note(f"no jobs yet; submit one with: {command_name()} jobs submit finetune --config FILE")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("JOB", "STATE", "STARTED", "TOOK", "RESULT"):
        table.add_column(title, no_wrap=title != "RESULT")
    for job in jobs:
        colour = _COLOURS.get(job.state)
        state = f"[{colour}]{job.state.value}[/]" if colour else job.state.value
        table.add_row(job.submission_id, state, *_times(job), _result(job))
    out.print(table)


def show_job(job: JobView, *, as_json: bool) -> None:
    """Show one job."""
    if as_json:
        print_json(job.as_json())
        return
    record = job.record
    started, took = _times(job)
    rows = {
        "job": job.submission_id,
        "state": job.state.value,
        "started": started,
        "took": took,
        "error": job.error,
        "config": record.config if record else None,
        "code": record.code.identity if record else None,
        "results": record.out if record else None,
        "MLflow run": record.run_id if record else None,
        "Ray says": job.ray.status if job.ray else "not on this cluster",
    }
    for name, value in rows.items():
        if value:
            out.print(f"{name:11} {value}", markup=False, highlight=False, soft_wrap=True)
    if record is not None and job.state in (JobState.STOPPED, JobState.KILLED):
        note(how_to_repeat(record))


def how_to_repeat(record: "JobRecord") -> str:
    """Return what to do about a job that did not end well; only trainings have checkpoints."""
    given = record.arguments if record.kind == "evaluate" else ("--config", str(record.config))
    command = shlex.join([command_name(), "jobs", "submit", record.kind, *given])
    purpose = "begin again" if record.kind == "evaluate" else "go on from its checkpoint"
    return f"to {purpose}, submit it again: {command}"


def _times(job: JobView) -> tuple[str, str]:
    known = job.record or job.ray  # jobs without a record are known to Ray
    if known is None or known.started_at is None:
        return "", ""
    seconds = int(((known.ended_at or datetime.now(UTC)) - known.started_at).total_seconds())
    return known.started_at.strftime("%Y-%m-%d %H:%M:%S"), f"{seconds // 60}:{seconds % 60:02d}"


def _result(job: JobView) -> str:
    if job.error:
        return " ".join(job.error.split())[:80]
    return (job.record.out if job.record else None) or ""
