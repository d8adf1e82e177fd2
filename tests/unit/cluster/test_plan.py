"""Golden cases of `carril plan`: one changed line, the effect that Ray Serve gives it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from cluster.plan import Action, Plan, Running, RunningApp, make_plan
from cluster.serve_rules import app_fingerprint, unknown_keys

Config = dict[str, Any]


def config() -> Config:
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": [
            {
                "name": "gateway",
                "route_prefix": "/",
                "import_path": "serve_app.app:build_gateway",
                "deployments": [
                    {
                        "name": "Gateway",
                        "num_replicas": 2,
                        "max_ongoing_requests": 64,
                        "user_config": {"weights": [90, 10]},
                        "ray_actor_options": {"num_cpus": 0.1},
                    }
                ],
            },
            {
                "name": "stable",
                "route_prefix": None,
                "import_path": "serve_app.app:build_model",
                "args": {"log_level": "INFO"},
                "deployments": [
                    {"name": "Model", "user_config": {"model": "a"}},
                    {"name": "Tokenizer"},
                ],
            },
        ],
    }


def plan(change: Callable[[Config], object]) -> Plan:
    new = copy.deepcopy(config())
    change(new)
    return make_plan(Running.from_config(config()), new)


def actions(change: Callable[[Config], object]) -> dict[str, str]:
    return {
        f"{app.name}/{deployment.name}": str(deployment.action)
        for app in plan(change).apps
        for deployment in app.deployments
        if deployment.action is not Action.NONE
    }


def gateway(new: Config) -> Config:
    return new["applications"][0]["deployments"][0]


def stable(new: Config) -> Config:
    return new["applications"][1]


def model(new: Config) -> Config:
    return stable(new)["deployments"][0]


@pytest.mark.parametrize(
    ("option", "value", "action"),
    [
        ("user_config", {"weights": [50, 50]}, "reconfigure"),
        ("max_ongoing_requests", 65, "reconfigure"),
        ("backpressure_config", {"status_code": 429}, "reconfigure"),
        ("graceful_shutdown_wait_loop_s", 0.5, "reconfigure"),
        ("logging_config", {"log_level": "DEBUG"}, "reconfigure"),
        ("num_replicas", 3, "scale"),
        ("num_replicas", "auto", "reconfigure"),
        ("max_queued_requests", 8, "controller"),
        ("rolling_update_percentage", 0.5, "controller"),
        ("max_surge_percent", 100, "controller"),
        ("graceful_shutdown_timeout_s", 60, "controller"),
        ("health_check_period_s", 2, "controller"),
        ("health_check_timeout_s", 5, "controller"),
        ("ray_actor_options", {"num_cpus": 0.2}, "restart"),
        ("placement_group_bundles", [{"CPU": 1}], "restart"),
        ("placement_group_strategy", "SPREAD", "restart"),
        ("max_replicas_per_node", 1, "restart"),
        ("gang_scheduling_config", {"gang_size": 2}, "restart"),
        ("request_router_config", {"request_router_class": "m:R"}, "restart"),
        ("deployment_actors", [{"name": "a", "actor_class": "m:A"}], "restart"),
        ("autoscaling_config", {"min_replicas": 1}, "restart"),
    ],
)
def test_a_deployment_option(option: str, value: object, action: str) -> None:
    assert actions(lambda new: gateway(new).update({option: value})) == {"gateway/Gateway": action}


@pytest.mark.parametrize(
    ("option", "value", "action"),
    [
        ("import_path", "serve_app.app:build_other", "restart"),
        ("runtime_env", {"env_vars": {"A": "1"}}, "restart"),
        ("args", {"log_level": "DEBUG"}, "restart"),
        ("autoscaling_policy", {"policy_function": "m:f"}, "restart"),
        ("logging_config", {"log_level": "DEBUG"}, "reconfigure"),
        ("route_prefix", "/model", "reconfigure"),
        ("external_scaler_enabled", True, "controller"),
    ],
)
def test_an_application_option_reaches_all_its_deployments(
    option: str, value: object, action: str
) -> None:
    changed = actions(lambda new: stable(new).update({option: value}))

    assert changed == {"stable/Model": action, "stable/Tokenizer": action}


def test_an_unchanged_file_changes_nothing() -> None:
    assert not plan(lambda new: None).changes_anything


def test_spelling_out_defaults_changes_nothing() -> None:
    assert not plan(
        lambda new: new["applications"][0].update(args={}, runtime_env={})
    ).changes_anything


def test_a_block_in_the_code_version_restarts_the_neighbours_too() -> None:
    changed = actions(lambda new: model(new).update(request_router_config={"x": 1}))

    assert changed == {"stable/Model": "restart", "stable/Tokenizer": "restart"}


def test_other_applications_are_left_alone() -> None:
    changed = actions(lambda new: model(new).update(user_config={"model": "b"}))

    assert changed == {"stable/Model": "reconfigure"}


@pytest.mark.parametrize(
    ("before", "after", "action"),
    [
        ({"max_replicas": 2}, {"max_replicas": 3}, "scale"),
        ({"look_back_period_s": 30}, {"look_back_period_s": 60}, "reconfigure"),
        ({"policy": {"policy_function": "m:f"}}, {"policy": {"policy_function": "m:g"}}, "restart"),
    ],
)
def test_autoscaling_bounds_are_cheap_and_its_policy_is_not(
    before: Config, after: Config, action: str
) -> None:
    old, new = config(), config()
    model(old)["autoscaling_config"] = before
    model(new)["autoscaling_config"] = after

    result = make_plan(Running.from_config(old), new)

    assert result.apps[1].deployments[0].action == action


def test_a_new_application_is_added_and_restarts_nothing() -> None:
    candidate = {**stable(config()), "name": "candidate"}

    result = plan(lambda new: new["applications"].append(candidate))

    assert [str(app.action) for app in result.apps] == ["none", "none", "added"]


def test_an_application_missing_from_the_file_is_deleted() -> None:
    result = plan(lambda new: new["applications"].pop())

    assert [(app.name, str(app.action)) for app in result.apps] == [
        ("gateway", "none"),
        ("stable", "deleted"),
    ]


def test_an_application_that_no_file_deployed_is_not_deleted() -> None:
    running = Running(apps={"notebook": RunningApp(config=None)})

    result = make_plan(running, {"applications": []})

    assert result.apps[0].action is Action.NONE
    assert not result.changes_anything


def test_setting_an_option_to_the_value_in_code_changes_nothing() -> None:
    new = config()
    model(new)["max_ongoing_requests"] = 5
    live = {"Model": {"max_ongoing_requests": 5}, "Tokenizer": {}}
    old = Running.from_config(config())
    apps = {**old.apps, "stable": RunningApp(config=stable(config()), deployments=live)}

    assert not make_plan(Running(apps=apps), new).changes_anything


def test_a_removed_option_says_that_the_value_in_code_takes_over() -> None:
    result = plan(lambda new: gateway(new).pop("max_ongoing_requests"))

    assert result.apps[0].deployments[0].reasons == (
        "max_ongoing_requests: reconfigure (the value in code takes over)",
    )


def test_the_strongest_change_decides() -> None:
    changed = actions(
        lambda new: gateway(new).update(user_config={}, ray_actor_options={"num_cpus": 1})
    )

    assert changed == {"gateway/Gateway": "restart"}


def test_an_application_whose_last_deployment_failed_is_built_anew() -> None:
    old = Running.from_config(config())
    apps = {name: app for name, app in old.apps.items() if name != "stable"}
    apps["stable"] = RunningApp(config=stable(config()), status="DEPLOY_FAILED")

    result = make_plan(Running(apps=apps), config())

    assert result.apps[1].action is Action.RESTART


def test_options_that_serve_fixes_at_its_start_are_warned_about() -> None:
    result = plan(lambda new: new["http_options"].update(port=9000))

    assert len(result.warnings) == 1
    assert result.warnings[0].startswith("http_options.port is fixed when Serve starts")


def test_the_answer_of_the_rest_api_is_read() -> None:
    details = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": {
            app["name"]: {
                "status": "RUNNING",
                "deployed_app_config": app,
                "deployments": {
                    item["name"]: {"deployment_config": item} for item in app["deployments"]
                },
            }
            for app in config()["applications"]
        },
    }

    assert not make_plan(Running.from_api(details), config()).changes_anything


def test_the_fingerprint_ignores_key_order_and_heeds_an_empty_block() -> None:
    app = stable(config())
    reordered = dict(reversed(app.items()))
    with_block = copy.deepcopy(app)
    with_block["deployments"][0]["autoscaling_config"] = {"min_replicas": 1}

    assert app_fingerprint(app) == app_fingerprint(reordered)
    assert app_fingerprint(app) != app_fingerprint(with_block)


def test_keys_that_serve_would_ignore_are_found() -> None:
    new = config()
    gateway(new)["max_onging_requests"] = 3
    new["http_option"] = {}

    assert unknown_keys(new) == [
        "http_option",
        "applications.gateway.deployments.Gateway.max_onging_requests",
    ]
