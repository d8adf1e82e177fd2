"""Measure a model as a job: `python -m experiments.jobs.evaluate --config FILE|--target ...`.

The same entry point serves `carril jobs submit evaluate` and a plain
`ray job submit -- python -m experiments.jobs.evaluate --target gguf --model FILE --suite DIR`.
The job succeeds when the report is written, whatever it says; `carril eval gate` judges it.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.evaluation.dimensions import Skippable
from experiments.evaluation.errors import (
    BadInput,
    EvaluationError,
    TargetDenied,
    TargetUnavailable,
)
from experiments.evaluation.launch import evaluate
from experiments.evaluation.line_progress import LineProgress
from experiments.evaluation.settings import (
    DEFAULT_URL,
    EvaluationSettings,
    make_settings,
    read_settings,
)
from experiments.jobs import preflight
from experiments.jobs.code_state import code_state
from experiments.jobs.errors import JobError, JobExit
from experiments.jobs.identity import local_id, ray_submission_id, work_id
from experiments.jobs.preflight import Check
from experiments.jobs.record import home_dir
from experiments.jobs.session import JobSession, run_job

if TYPE_CHECKING:
    from experiments.evaluation.report import Report

_DISK_BYTES = 64 << 20
"""Thousands of answers of a few hundred bytes, and the reports."""
_CONTEXT_BYTES = 512 << 20
"""Beside the weights: context, libraries, answers."""


class Evaluation:
    """The body of the job.

    Args:
        settings: What is measured.
        out: Folder of the run.
    """

    def __init__(self, settings: EvaluationSettings, out: Path) -> None:
        self._settings = settings
        self._out = out

    def __call__(self, session: JobSession) -> dict[str, Any]:
        """Do the work and return the report."""
        session.say(f"measuring {self._settings.model or 'the classifier'} into {self._out}")
        preflight.require(self.checks(), say=session.say)
        lines = LineProgress("evaluating", session.say)
        try:
            report = evaluate(
                self._settings, self._out, on_stage=session.say, on_progress=lines.update
            )
        except EvaluationError as error:
            raise JobError(_with_fix(error), _exit_of(error)) from error
        except OSError as error:
            raise JobError(f"cannot write the results: {error}", JobExit.INFRASTRUCTURE) from error
        for dimension in report.dimensions:
            session.say(f"{dimension.name}: {dimension.value} (n {dimension.n})")
        return _summary(report, self._out)

    def checks(self) -> list[Check]:
        """Look at everything that could stop the evaluation later."""
        checks = [preflight.disk(self._out, _DISK_BYTES), preflight.cluster(), self._check_out()]
        if self._settings.target == "gguf":
            checks += [preflight.packages(("llama_cpp",), target="native"), self._check_memory()]
        if self._settings.train is not None:
            checks.append(preflight.packages(("sklearn",), target="tracking"))
        return checks

    def _check_out(self) -> Check:
        report = self._out / "report.json"
        detail = f"{report} exists" if report.exists() else f"{self._out} has no report yet"
        return Check("folder", not report.exists(), detail, "choose another --out")

    def _check_memory(self) -> Check:
        path = Path(self._settings.model or "")
        size = path.stat().st_size if path.is_file() else 0
        return preflight.memory(size + _CONTEXT_BYTES)


def parse(arguments: Sequence[str]) -> EvaluationSettings:
    """Read what a command line of this job asks for, without doing it.

    Raises:
        BadInput: If it cannot be done; what Typer itself refuses is raised as Typer does.
    """
    app = typer.Typer(add_completion=False)
    app.command()(command)
    options = typer.main.get_command(app).make_context("evaluate", list(arguments)).params
    options.pop("out")
    return _settings(**options)


def command(
    config: Annotated[Path | None, typer.Option(help="YAML with all settings.")] = None,
    target: Annotated[str | None, typer.Option(help="served, gguf or baseline.")] = None,
    model: Annotated[str | None, typer.Option(help="Served model, or path of a GGUF.")] = None,
    url: Annotated[str | None, typer.Option(help="Address of the API; CARRIL_URL.")] = None,
    suite: Annotated[list[Path] | None, typer.Option(help="Suite file or folder.")] = None,
    train: Annotated[Path | None, typer.Option(help="train.jsonl for the classifiers.")] = None,
    baseline_model: Annotated[
        str, typer.Option(help="Which one --target baseline is: svm or logreg.")
    ] = "svm",
    grammar: Annotated[bool, typer.Option(help="Force a GGUF's answers into the schema.")] = True,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")] = 4,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of a GGUF.")] = 0,
    calibration: Annotated[
        Path | None, typer.Option(help="Decide by this one; by default the model file's own.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most items of each suite.")] = None,
    skip: Annotated[
        list[Skippable] | None, typer.Option(help="Part to leave out; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of results.")] = None,
) -> None:
    """Measure a model on suites; write predictions and a report."""
    try:
        settings = _settings(
            config=config,
            target=target,
            model=model,
            url=url,
            suite=suite,
            train=train,
            baseline_model=baseline_model,
            grammar=grammar,
            concurrency=concurrency,
            threads=threads,
            calibration=calibration,
            limit=limit,
            skip=skip,
        )
        code = _run(settings, config, out)
    except BadInput as error:
        typer.echo(f"error: {_with_fix(error)}", err=True)
        code = JobExit.USAGE
    except JobError as error:
        typer.echo(f"error: {error}", err=True)
        code = error.code
    raise typer.Exit(int(code))


def _settings(
    *,
    config: Path | None,
    target: str | None,
    url: str | None,
    suite: list[Path] | None,
    skip: list[Skippable] | None,
    **plain: object,
) -> EvaluationSettings:
    if (config is None) == (target is None):
        raise BadInput("give either --config or --target")
    if config is not None:
        return read_settings(config)
    document: dict[str, object] = {
        **plain,
        "target": target,
        "url": url or os.environ.get("CARRIL_URL") or DEFAULT_URL,
        "suites": tuple(suite or ()),
        "skip": frozenset(skip or ()),
    }
    return make_settings(document, where="options")


def _run(settings: EvaluationSettings, config: Path | None, out: Path | None) -> int:
    digest = settings.sha256()
    work = work_id("evaluate", config_sha256=digest, code_identity=code_state().identity)
    in_ray = ray_submission_id()
    submission_id = in_ray or local_id(work)
    home = home_dir()
    folder = out or home / "evaluations" / submission_id
    return run_job(
        "evaluate",
        submission_id,
        Evaluation(settings, folder),
        home=home,
        echo=lambda line: typer.echo(line, err=True),
        nice=in_ray is not None,
        config=config,
        config_sha256=digest,
        arguments=tuple(sys.argv[1:]),
        out=folder,
    )


def _summary(report: "Report", out: Path) -> dict[str, Any]:
    return {
        "evaluation": str(out.absolute()),
        "target": report.target.model_dump(),
        "suite_sha256": report.suite_sha256,
        "predictions_sha256": report.predictions_sha256,
        "dimensions": {d.name: d.passed for d in report.dimensions},
        "metrics": report.metrics,
    }


def _exit_of(error: EvaluationError) -> JobExit:
    if isinstance(error, TargetUnavailable | TargetDenied):
        return JobExit.INFRASTRUCTURE
    return JobExit.USAGE


def _with_fix(error: EvaluationError) -> str:
    return f"{error.message}; {error.fix}" if error.fix else error.message


def main() -> None:
    """Run the job from the command line."""
    typer.run(command)


if __name__ == "__main__":
    main()
