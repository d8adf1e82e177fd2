"""The one module that imports MLflow: runs, and registered models that mirror the registry.

MLflow stands beside the registry: it shows runs, metrics and versions, and it can be searched. What
is served is decided by the registry's own files. Model files are not uploaded; MLflow holds a
pointer (an external model) with their hash.
"""

import contextlib
import fcntl
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.registry.records import ModelVersion
from experiments.registry.standing import Standing
from training.errors import MissingExtraError, TrackingError
from training.registry.mlflow_tags import (
    OWN_ALIASES,
    VERSION_TAG,
    lineage_tags,
    state_tags,
    wanted_aliases,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ENVIRONMENT = {
    # A library that reports to its makers, unasked, has no place on a customer's machine.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # By default a server that is down is asked for four minutes, in every single call.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
EXPERIMENT = "carril-models"
"""Experiment of registrations whose training was not tracked."""
_MAX_TAG = 5000
_MAX_PARAM = 6000
_MAX_DIGEST = 36
"""Longest digest of a data set that MLflow takes; the whole hash goes into a tag."""


def tracking_home(home: Path) -> Path:
    """Return where MLflow's files are by default."""
    return home.absolute() / "mlflow"


def default_uri(home: Path) -> str:
    """Return the address of the SQLite store under `CARRIL_HOME`."""
    return f"sqlite:///{tracking_home(home)}/mlflow.db"


class Shown(NamedTuple):
    """A version in MLflow."""

    number: str
    """MLflow's own number of it."""
    tags: dict[str, str]


class MlflowStore:
    """A tracking store with its registry.

    Args:
        home: `CARRIL_HOME`.
        uri: Address of the store; None is `MLFLOW_TRACKING_URI`, else SQLite under the home.

    Raises:
        MissingExtraError: If MLflow is not installed.
    """

    def __init__(self, home: Path, uri: str | None = None) -> None:
        self._home = tracking_home(home)
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(home)
        self._is_server = self.uri.startswith(("http://", "https://"))
        self._client = self._connect()

    def _connect(self) -> "MlflowClient":
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with _quiet():
            try:
                import mlflow
            except ModuleNotFoundError as error:
                raise MissingExtraError("Tracking in MLflow", "mlflow", "tracking") from error
            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            mlflow.set_tracking_uri(self.uri)
            client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            if not self._is_server:
                self._make_database(client)
            return client

    def _make_database(self, client: "MlflowClient") -> None:
        """Create or open the tables, one process at a time: migrations do not lock."""
        with self.alone(), _translated(self.uri):
            client.search_experiments(max_results=1)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes of this home out, where looking and writing belong together."""
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / "mlflow.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def create_run(
        self, experiment: str, name: str, *, tags: Mapping[str, str], params: Mapping[str, object]
    ) -> str:
        """Start a run and return its id."""
        with self._calls():
            run = self._client.create_run(
                self._experiment(experiment), run_name=name, tags=_tags(tags)
            )
            run_id = str(run.info.run_id)
        self.log_params(run_id, params)
        return run_id

    def reopen(self, run_id: str) -> None:
        """Go on with a run, whether it has ended or not."""
        with self._calls():
            self._client.update_run(run_id, status="RUNNING")

    def log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Record parameters; each can be set once."""
        from mlflow.entities import Param

        with self._calls():
            self._client.log_batch(
                run_id,
                params=[Param(key, str(value)[:_MAX_PARAM]) for key, value in params.items()],
            )

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Record metrics of one step."""
        import time

        from mlflow.entities import Metric

        at_ms = int(time.time() * 1000)
        with self._calls():
            self._client.log_batch(
                run_id,
                metrics=[Metric(key, float(value), at_ms, step) for key, value in metrics.items()],
            )

    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Copy a small file or a folder to the run."""
        with self._calls():
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), folder)
            else:
                self._client.log_artifact(run_id, str(path), folder)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set or replace tags of a run."""
        with self._calls():
            for key, value in _tags(tags).items():
                self._client.set_tag(run_id, key, value)

    def end(self, run_id: str, status: str) -> None:
        """End a run: `FINISHED`, `FAILED` or `KILLED`."""
        with self._calls():
            self._client.set_terminated(run_id, status)

    def shown(self, name: str) -> dict[str, Shown]:
        """Return which versions of a model MLflow has, by carril's version."""
        with self._calls():
            found = self._client.search_model_versions(f"name = '{name}'", max_results=10_000)
        return {
            item.tags[VERSION_TAG]: Shown(str(item.version), dict(item.tags))
            for item in found
            if VERSION_TAG in item.tags
        }

    def show_version(self, version: ModelVersion, *, model_file: Path, card: str) -> Shown:
        """Add a version that MLflow does not have yet.

        Args:
            version: The record.
            model_file: Where the registry keeps the file; only the address goes to MLflow.
            card: The model card, kept with the run.
        """
        with self._calls():
            run_id = self._run_of(version)
            self._log_dataset(run_id, version)
            model_id = self._external_model(version, run_id, model_file)
            self._client.log_text(run_id, card, f"models/{version.version}/model_card.md")
            with _accepting("RESOURCE_ALREADY_EXISTS"):
                self._client.create_registered_model(version.name)
            tags = _tags(lineage_tags(version) | {"model_id": model_id})
            created = self._client.create_model_version(
                version.name,
                source=f"models:/{model_id}",
                run_id=run_id,
                tags=tags,
                description=version.description,
                model_id=model_id,
            )
            return Shown(str(created.version), tags)

    def sync(self, standing: Standing, shown: Mapping[str, Shown]) -> None:
        """Make aliases and state tags those of the ledger; what is right already is left alone.

        Args:
            standing: What the ledger says about a model.
            shown: Its versions in MLflow.
        """
        wanted = {
            alias: shown[version].number
            for alias, version in wanted_aliases(standing).items()
            if version in shown
        }
        with self._calls():
            aliases = self._client.get_registered_model(standing.name).aliases
            present = {alias: str(number) for alias, number in aliases.items()}
            for alias in present.keys() & OWN_ALIASES - wanted.keys():
                self._client.delete_registered_model_alias(standing.name, alias)
            for alias, number in wanted.items():
                if present.get(alias) != number:
                    self._client.set_registered_model_alias(standing.name, alias, number)
            for version, entry in shown.items():
                if version not in standing.versions:
                    continue
                for key, value in state_tags(standing, version).items():
                    if entry.tags.get(key) != value:
                        self._client.set_model_version_tag(standing.name, entry.number, key, value)

    @contextlib.contextmanager
    def _calls(self) -> Iterator[None]:
        with _quiet(), _translated(self.uri):
            yield

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # Without a server, MLflow's default is under whatever directory this process runs in.
        location = None if self._is_server else (self._home / "artifacts" / name).as_uri()
        with _accepting("RESOURCE_ALREADY_EXISTS"):  # another process made it meanwhile
            self._client.create_experiment(name, artifact_location=location)
        return str(self._client.get_experiment_by_name(name).experiment_id)

    def _run_of(self, version: ModelVersion) -> str:
        """Return the training's run, or a run that holds what the record says about it."""
        known = version.lineage.get("run.id")
        if known is not None and self._has_run(known):
            return known
        run_id = self.create_run(
            EXPERIMENT,
            f"register {version.label}",
            tags={"git.commit": version.code_commit or "", "artifact.sha256": version.sha256},
            params=version.parameters,
        )
        self.end(run_id, "FINISHED")
        return run_id

    def _has_run(self, run_id: str) -> bool:
        found = []
        with _accepting("RESOURCE_DOES_NOT_EXIST"):
            found.append(self._client.get_run(run_id))
        return bool(found)

    def _log_dataset(self, run_id: str, version: ModelVersion) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = Dataset(
            name="carril-sft",
            digest=version.dataset_sha256[:_MAX_DIGEST],
            source_type="local",
            source=f"sha256:{version.dataset_sha256}",
        )
        tags = [
            InputTag("mlflow.data.context", "training"),
            InputTag("sha256", version.dataset_sha256),
        ]
        self._client.log_inputs(run_id, datasets=[DatasetInput(data, tags)])

    def _external_model(self, version: ModelVersion, run_id: str, model_file: Path) -> str:
        import mlflow

        model = mlflow.create_external_model(
            name=version.artefact.replace(".", "-"),
            source_run_id=run_id,
            experiment_id=str(self._client.get_run(run_id).info.experiment_id),
            model_type="gguf",
            params={key: str(value)[:_MAX_PARAM] for key, value in version.parameters.items()},
            tags={
                "artifact.sha256": version.sha256,
                "artifact.bytes": str(version.size_bytes),
                "artifact.uri": model_file.as_uri(),
            },
        )
        figures = {key: value for key, value in version.metrics.items() if value is not None}
        mlflow.log_metrics(figures, run_id=run_id, model_id=model.model_id, synchronous=True)
        return str(model.model_id)


def _tags(tags: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value)[:_MAX_TAG] for key, value in tags.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep deprecation notices of MLflow's own dependencies from users, who cannot act."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _accepting(code: str) -> Iterator[None]:
    """Take one answer of MLflow for what it is: no failure."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != code:
            raise


@contextlib.contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Turn every failure of the store into one error that names it."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:  # the store may be SQLite, HTTP or anything: no common error type
        text = " ".join(str(error).split())[:300]
        raise TrackingError(f"MLflow at {uri} failed: {type(error).__name__}: {text}") from error
