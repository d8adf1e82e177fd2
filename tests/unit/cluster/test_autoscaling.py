"""What is wrong with an autoscaling block is said before it is deployed."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.autoscaling import POLICY, autoscaling_faults, most_replicas
from cluster.memory import memory_need
from cluster.plan import Action, Running, make_plan
from cluster.validate import load_serve_config
from serve_app.config import parse_model_config
from serve_app.errors import ConfigError

BLOCK: dict[str, Any] = {
    "min_replicas": 1,
    "max_replicas": 3,
    "upscale_delay_s": 5,
    "downscale_delay_s": 300,
    "policy": {"policy_function": POLICY},
}


def app(block: Any = BLOCK, **deployment: Any) -> dict[str, Any]:
    return {
        "name": "okla-stable",
        "import_path": "serve_app.app:build_model",
        "route_prefix": None,
        "deployments": [
            {
                "name": "model",
                "autoscaling_config": block,
                "user_config": {"engine": "echo"},
                **deployment,
            }
        ],
    }


def test_good_block_has_no_faults_and_may_grow_to_its_maximum() -> None:
    assert list(autoscaling_faults(app())) == []
    assert most_replicas(app()) == 3
    assert most_replicas(app(None, num_replicas=2)) == 2
    assert most_replicas(app(None)) == 1


@pytest.mark.parametrize(
    ("block", "deployment", "says"),
    [
        pytest.param("auto", {}, "not a mapping", id="no mapping"),
        pytest.param(BLOCK, {"num_replicas": 2}, "num_replicas fixes", id="both"),
        pytest.param(BLOCK | {"upscale_delay": 1}, {}, "upscale_delay: unknown", id="misspelt"),
        pytest.param(BLOCK | {"min_replicas": 4}, {}, "no range", id="upside down"),
        pytest.param(BLOCK | {"max_replicas": "3"}, {}, "no range", id="no number"),
        pytest.param(BLOCK | {"min_replicas": 0}, {}, "idle.unload_after_s", id="zero"),
        pytest.param(BLOCK | {"policy": POLICY}, {}, "names no function", id="bare policy"),
        pytest.param(
            BLOCK | {"policy": {"policy_function": POLICY[:-1]}},
            {},
            f"carril has '{POLICY}'",
            id="misspelt policy",
        ),
    ],
)
def test_faulty_block_is_refused_in_the_config(
    tmp_path: Path, block: Any, deployment: dict[str, Any], says: str
) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump({"applications": [app(block, **deployment)]}), encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        load_serve_config(path)


@pytest.mark.parametrize(
    ("change", "action"),
    [
        pytest.param({"max_replicas": 5}, Action.SCALE, id="bounds"),
        pytest.param({"downscale_delay_s": 60}, Action.SCALE, id="delays"),
        pytest.param({"look_back_period_s": 10}, Action.RECONFIGURE, id="look-back"),
        pytest.param({"policy": {"policy_function": "a:b"}}, Action.RESTART, id="policy"),
    ],
)
def test_plan_says_what_tuning_costs(change: dict[str, Any], action: Action) -> None:
    before, after = {"applications": [app()]}, {"applications": [app(BLOCK | change)]}
    plan = make_plan(Running.from_config(before), after)
    assert plan.apps[0].action is action


def test_thresholds_are_changed_in_place() -> None:
    tuned = app(user_config={"engine": "echo", "scaling": {"target_wait_s": 1}})
    plan = make_plan(Running.from_config({"applications": [app()]}), {"applications": [tuned]})
    assert plan.apps[0].action is Action.RECONFIGURE


def test_example_is_safe_to_deploy_and_uses_what_it_shows() -> None:
    path = Path(__file__).parents[3] / "cluster/examples/scaling_echo.yaml"
    config = load_serve_config(path)
    assert most_replicas(config.raw["applications"][1]) == 3
    block = config.raw["applications"][1]["deployments"][0]["autoscaling_config"]
    assert block["policy"]["policy_function"] == POLICY
    assert config.models["okla-busy"].scaling.target_wait_s == 1
    assert config.models["okla-seldom"].idle.unload_after_s == 600


def test_readme_shows_a_block_that_is_valid() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## When the load changes")[2]
    deployment = yaml.safe_load(section.split("```yaml")[1].split("```")[0])["deployments"][0]
    shown = app(deployment["autoscaling_config"])
    assert list(autoscaling_faults(shown)) == []
    parse_model_config({"engine": "echo"} | deployment["user_config"])


def test_policy_can_be_imported_by_the_name_that_configs_give_it() -> None:
    module, _, function = POLICY.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_memory_is_planned_for_the_most_replicas(tmp_path: Path) -> None:
    def need(most: int) -> int:
        path = tmp_path / f"{most}.yaml"
        one = app(BLOCK | {"max_replicas": most})
        path.write_text(yaml.safe_dump({"applications": [one]}), encoding="utf-8")
        return memory_need(load_serve_config(path), {}).steady_bytes

    assert need(3) - need(1) == 2 * (need(2) - need(1)) > 0
