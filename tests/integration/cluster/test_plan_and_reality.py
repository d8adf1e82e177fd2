"""What `plan` says about a change, compared with what Ray did to the replicas."""

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.plan import Action, Plan, Running, make_plan
from cluster.rollout import deploy_and_wait
from cluster.serve_rules import _DEPLOYMENT_EFFECTS, Effect
from cluster.validate import ServeConfig
from tests.integration.cluster.conftest import Sandbox, tiny_config

Config = dict[str, Any]
Replicas = dict[str, set[str]]
_TIMEOUT_S = 120


def replicas(details: Config) -> Replicas:
    """Return the actor ids of the running replicas by 'application/deployment'."""
    return {
        f"{app}/{name}": {
            replica["actor_id"] for replica in item["replicas"] if replica["state"] == "RUNNING"
        }
        for app, info in details["applications"].items()
        for name, item in info["deployments"].items()
    }


def deploy(sandbox: Sandbox, new: Config) -> tuple[Plan, Replicas, Replicas]:
    """Plan and deploy; return the plan and the replicas before and after."""
    config = ServeConfig(path=Path("serve.yaml"), raw=new)
    with sandbox.api() as api:
        before = api.details()
        plan = make_plan(Running.from_api(before), new)
        deploy_and_wait(api, config, http_url=sandbox.record.http_url, timeout_s=_TIMEOUT_S)
        return plan, replicas(before), replicas(api.details())


def planned(plan: Plan) -> dict[str, Action]:
    return {
        f"{app.name}/{deployment.name}": deployment.action
        for app in plan.apps
        for deployment in app.deployments
    }


@pytest.fixture
def base(sandbox: Sandbox) -> Config:
    """The config that every case starts from, deployed."""
    config = tiny_config()
    deploy(sandbox, config)
    return config


def single(config: Config) -> Config:
    return config["applications"][0]


def pair_front(config: Config) -> Config:
    return config["applications"][1]["deployments"][0]


@pytest.mark.parametrize(
    ("change", "action"),
    [
        pytest.param(
            lambda c: single(c)["deployments"][0].update(user_config={"n": 2}),
            Action.RECONFIGURE,
            id="user_config",
        ),
        pytest.param(
            lambda c: single(c)["deployments"][0].update(max_ongoing_requests=9),
            Action.RECONFIGURE,
            id="max_ongoing_requests",
        ),
        pytest.param(
            lambda c: single(c)["deployments"][0].update(health_check_timeout_s=7),
            Action.CONTROLLER,
            id="health_check_timeout_s",
        ),
        pytest.param(
            lambda c: single(c)["deployments"][0].update(ray_actor_options={"num_cpus": 0.01}),
            Action.RESTART,
            id="ray_actor_options",
        ),
        pytest.param(lambda c: single(c).update(args={"a": 1}), Action.RESTART, id="args"),
        pytest.param(
            lambda c: single(c).update(runtime_env={"env_vars": {"A": "1"}}),
            Action.RESTART,
            id="runtime_env",
        ),
        pytest.param(
            lambda c: single(c).update(route_prefix="/other"),
            Action.RECONFIGURE,
            id="route_prefix",
        ),
        pytest.param(
            lambda c: single(c).update(logging_config={"log_level": "DEBUG"}),
            Action.RECONFIGURE,
            id="logging_config",
        ),
    ],
)
def test_a_change_does_to_replicas_what_the_plan_says(
    sandbox: Sandbox, base: Config, change: Callable[[Config], None], action: Action
) -> None:
    new = copy.deepcopy(base)
    change(new)

    plan, before, after = deploy(sandbox, new)

    assert planned(plan)["single/Front"] is action
    restarted = before["single/Front"].isdisjoint(after["single/Front"])
    assert restarted == (action is Action.RESTART)
    for name in ("pair/Front", "pair/Back"):
        assert planned(plan)[name] is Action.NONE
        assert before[name] == after[name]


def test_a_block_of_the_code_version_restarts_both_deployments(
    sandbox: Sandbox, base: Config
) -> None:
    new = copy.deepcopy(base)
    front = pair_front(new)
    del front["num_replicas"]
    front["autoscaling_config"] = {"min_replicas": 2, "max_replicas": 2}

    plan, before, after = deploy(sandbox, new)

    for name in ("pair/Front", "pair/Back"):
        assert planned(plan)[name] is Action.RESTART
        assert before[name].isdisjoint(after[name])


def test_scaling_keeps_the_replicas_that_stay(sandbox: Sandbox, base: Config) -> None:
    new = copy.deepcopy(base)
    pair_front(new)["num_replicas"] = 3

    plan, before, after = deploy(sandbox, new)

    assert planned(plan)["pair/Front"] is Action.SCALE
    assert before["pair/Front"] < after["pair/Front"]


def test_a_file_that_says_what_runs_changes_nothing(sandbox: Sandbox, base: Config) -> None:
    new = copy.deepcopy(base)
    # 5 is the value in code, so that naming it is no change.
    single(new)["deployments"][0]["max_ongoing_requests"] = 5

    plan, before, after = deploy(sandbox, new)

    assert not plan.changes_anything
    assert before == after


def test_an_application_left_out_is_deleted_and_can_come_back(
    sandbox: Sandbox, base: Config
) -> None:
    less = {**base, "applications": base["applications"][:1]}

    plan, before, after = deploy(sandbox, less)
    assert [str(app.action) for app in plan.apps] == ["none", "deleted"]
    assert set(after) == {"single/Front"}
    assert before["single/Front"] == after["single/Front"]

    again, _, back = deploy(sandbox, base)
    assert [str(app.action) for app in again.apps] == ["none", "added"]
    assert len(back["pair/Front"]) == 2


def test_a_reconfigured_replica_has_the_new_user_config(sandbox: Sandbox, base: Config) -> None:
    new = copy.deepcopy(base)
    single(new)["deployments"][0]["user_config"] = {"n": 3}

    deploy(sandbox, new)

    answer = httpx.get(f"{sandbox.record.http_url}/single", trust_env=False).json()
    assert answer["configs"][-1] == {"n": 3}
    assert len(answer["configs"]) > 1


def test_the_rules_are_those_of_the_installed_ray() -> None:
    config = importlib.import_module("ray.serve._private.config")
    names = {
        "LightWeight": {Effect.SCALE, Effect.CONTROLLER},
        "NeedsReconfigure": {Effect.CONTROLLER},
        "NeedsActorReconfigure": {Effect.RECONFIGURE},
        "HeavyWeight": {Effect.RESTART},
    }
    # Ray marks these as reconfigurations, but as a block in a file they enter the code version.
    deeper = {"autoscaling_config", "request_router_config"}
    for name, field in config.DeploymentConfig.model_fields.items():
        kind = (field.json_schema_extra or {}).get("update_type")
        if kind is None or name not in _DEPLOYMENT_EFFECTS or name in deeper:
            continue
        assert _DEPLOYMENT_EFFECTS[name] in names[kind.value], name


def test_every_option_of_a_deployment_has_a_rule() -> None:
    schema = importlib.import_module("ray.serve.schema")

    assert set(schema.DeploymentSchema.model_fields) - {"name"} == set(_DEPLOYMENT_EFFECTS)
