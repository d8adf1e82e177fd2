"""Serving a promoted model: the file changes only after it runs."""

from pathlib import Path

import pytest
import yaml

from cluster.errors import CommandError, infrastructure
from cluster.model_deployment import ConfigDeployment
from cluster.served_models import check_served, served_digests
from experiments.registry import Alias, ModelVersion, Registry
from experiments.registry.profile import ServedFiles
from experiments.registry.records import Deployed
from serve_app.errors import ConfigError
from tests.unit.training.registry.builders import gate_report, registered
from training.registry import promote

SHIPPED = Path(__file__).parents[3] / "serve_config.yaml"


class Cluster:
    """Takes configs and remembers which file (by text) it was given."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.deployed: list[str] = []

    def __call__(self, path: Path) -> None:
        self.deployed.append(path.read_text(encoding="utf-8"))
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "serve_config.yaml"
    path.write_bytes(SHIPPED.read_bytes())
    return path


@pytest.fixture
def version(tmp_path: Path) -> ModelVersion:
    return registered(Registry(tmp_path / "registry"), tmp_path, "2.0.0")


def apply(deployment: ConfigDeployment, version: ModelVersion, config: Path) -> Deployed:
    return deployment.apply(version, ServedFiles(config.parent / "blob.gguf", None), Alias.CHAMPION)


def sha256_of(text: str, app: int) -> str:
    raw = yaml.safe_load(text)
    return str(raw["applications"][app]["deployments"][0]["user_config"]["model"]["sha256"])


def test_what_runs_is_what_the_file_says_afterwards(config: Path, version: ModelVersion) -> None:
    cluster = Cluster()
    done = apply(ConfigDeployment(config, cluster), version, config)
    assert done == Deployed(config="serve_config.yaml", variant="stable")
    assert cluster.deployed == [config.read_text(encoding="utf-8")]
    assert sha256_of(cluster.deployed[0], 1) == version.sha256
    assert sorted(path.name for path in config.parent.glob("*.yaml")) == ["serve_config.yaml"]


@pytest.mark.parametrize(
    "error", [CommandError("replica died"), infrastructure("no cluster")], ids=["failed", "none"]
)
def test_a_refused_deployment_leaves_the_file_and_asks_for_the_old_one(
    config: Path, version: ModelVersion, error: CommandError
) -> None:
    before = config.read_text(encoding="utf-8")
    cluster = Cluster(error)
    with pytest.raises(CommandError, match=str(error)):
        apply(ConfigDeployment(config, cluster), version, config)
    assert config.read_text(encoding="utf-8") == before
    assert cluster.deployed[1:] == [before]
    assert list(config.parent.glob(".*.yaml")) == []


def test_the_first_error_is_told_when_the_old_config_cannot_be_deployed_either(
    config: Path, version: ModelVersion
) -> None:
    cluster = Cluster(CommandError("replica died"), infrastructure("cluster died"))
    with pytest.raises(CommandError, match="replica died"):
        apply(ConfigDeployment(config, cluster), version, config)


def test_undo_serves_the_config_from_before(config: Path, version: ModelVersion) -> None:
    before = config.read_text(encoding="utf-8")
    cluster = Cluster()
    deployment = ConfigDeployment(config, cluster)
    apply(deployment, version, config)
    deployment.undo()
    assert config.read_text(encoding="utf-8") == before == cluster.deployed[-1]
    deployment.undo()
    assert len(cluster.deployed) == 2


def test_an_edit_made_meanwhile_is_not_overwritten(config: Path, version: ModelVersion) -> None:
    def deploy(_path: Path) -> None:
        config.write_text("# mine\n", encoding="utf-8")

    with pytest.raises(CommandError, match="was edited while it was being deployed"):
        apply(ConfigDeployment(config, deploy), version, config)
    assert config.read_text(encoding="utf-8") == "# mine\n"


def test_a_missing_config_is_named(config: Path, version: ModelVersion) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml cannot be read"):
        apply(ConfigDeployment(config.with_name("none.yaml"), Cluster()), version, config)


def _readyz(**variants: list[str]) -> dict[str, object]:
    return {
        "variants": {
            name: {"replicas": [{"model_sha256": digest} for digest in digests]}
            for name, digests in variants.items()
        }
    }


def test_the_champion_must_run_on_every_replica_where_it_was_put(
    tmp_path: Path, config: Path
) -> None:
    registry = Registry(tmp_path / "registry")
    version = registered(registry, tmp_path, "1.0.0")
    promote(
        "okla",
        registry=registry,
        gate=gate_report(tmp_path / "g.json", version),
        deployment=ConfigDeployment(config, Cluster()),
    )
    right, other = version.sha256, "0" * 64

    def served(**variants: list[str]) -> bool:
        (check,) = check_served(registry.standings(), _readyz(**variants))
        assert (check.alias, check.version, check.expected_at) == ("champion", "1.0.0", "stable")
        return check.ok

    assert served(stable=[right, right], candidate=[other])
    assert not served(stable=[right, other])
    assert not served(stable=[other], candidate=[right])
    assert not served(stable=[])
    assert not served()


def test_replicas_without_a_model_are_told_as_such() -> None:
    body = {"variants": {"stable": {"replicas": [{"model_sha256": None}]}}}
    assert served_digests(body) == {"stable": ["nothing"]}
