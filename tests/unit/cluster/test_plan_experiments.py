"""What a plan says about users and models."""

from typing import Any

from cluster.plan_experiments import consequences

Config = dict[str, Any]


def serve_config(allocation: dict[str, float], *, salt: str = "s", sha: str = "a") -> Config:
    names = list(allocation)
    return {
        "applications": [
            {
                "name": "gateway",
                "import_path": "serve_app.app:build_gateway",
                "deployments": [
                    {
                        "name": "Gateway",
                        "user_config": {
                            "models": {"okla-chat": {"experiment": "exp"}},
                            "variants": {name: {"app": f"okla-{name}"} for name in names},
                            "experiments": {
                                "exp": {"salt": salt, "control": names[0], "allocation": allocation}
                            },
                        },
                    }
                ],
            },
            {
                "name": "okla-stable",
                "import_path": "serve_app.app:build_model",
                "deployments": [
                    {
                        "name": "Model",
                        "user_config": {
                            "engine": "llama_cpp",
                            "model": {"path": "m.gguf", "sha256": sha * 64},
                        },
                    }
                ],
            },
        ]
    }


def test_a_ramp_moves_units_from_control_only_and_warns_of_nothing() -> None:
    result = consequences(
        serve_config({"stable": 90, "candidate": 10}), serve_config({"stable": 40, "candidate": 60})
    )

    assert [(m.source, m.target, m.share, m.back) for m in result.moves] == [
        ("stable", "candidate", 0.5, False)
    ]
    assert result.warnings == ()


def test_a_ramp_back_is_warned_about() -> None:
    result = consequences(
        serve_config({"stable": 40, "candidate": 60}), serve_config({"stable": 90, "candidate": 10})
    )

    assert result.moves[0].back
    assert "50.00% of units move from treatment 'candidate' to 'stable'" in result.warnings[0]


def test_another_salt_is_warned_about() -> None:
    split = {"stable": 90.0, "candidate": 10.0}

    result = consequences(serve_config(split), serve_config(split, salt="t"))

    assert "assigns every unit anew" in result.warnings[0]


def test_another_model_file_is_a_reload() -> None:
    split = {"stable": 90.0, "candidate": 10.0}

    result = consequences(serve_config(split), serve_config(split, sha="b"))

    assert [(item.app, item.reason) for item in result.reloads] == [
        ("okla-stable", "model file: m.gguf (sha256 bbbbbbbbbbbb)")
    ]


def test_new_weights_reload_no_model() -> None:
    result = consequences(
        serve_config({"stable": 90, "candidate": 10}), serve_config({"stable": 80, "candidate": 20})
    )

    assert result.reloads == ()


def test_limits_of_sleep_and_scaling_reload_no_model() -> None:
    before, after = (serve_config({"stable": 90, "candidate": 10}) for _ in range(2))
    after["applications"][1]["deployments"][0]["user_config"] |= {
        "idle": {"unload_after_s": 60},
        "scaling": {"target_wait_s": 1},
        "load_timeout_s": 30,
    }
    assert consequences(before, after).reloads == ()


def with_experiment(**changes: Any) -> Config:
    config = serve_config({"stable": 50, "candidate": 50})
    gateway = config["applications"][0]["deployments"][0]["user_config"]
    gateway["experiments"]["exp"] |= changes
    return config


def test_less_coverage_takes_treated_units_back_and_is_warned_about() -> None:
    result = consequences(with_experiment(coverage=80), with_experiment(coverage=20))

    assert [(m.source, m.target, round(m.share, 9), m.back) for m in result.moves] == [
        ("candidate", "stable", 0.3, True)
    ]
    assert result.warnings == (
        "experiment 'exp': 30.00% of units move from treatment 'candidate' to 'stable'",
    )


def test_more_coverage_only_adds_units() -> None:
    result = consequences(with_experiment(coverage=20), with_experiment(coverage=80))

    assert [(m.source, m.target, round(m.share, 9), m.back) for m in result.moves] == [
        ("stable", "candidate", 0.3, False)
    ]
    assert result.warnings == ()


def test_another_hash_is_another_experiment() -> None:
    result = consequences(with_experiment(), with_experiment(hash="growthbook_v2"))

    assert result.moves == ()
    assert "another hash ('sha256' -> 'growthbook_v2')" in result.warnings[0]


def test_another_targeting_is_warned_about() -> None:
    after = with_experiment(targeting=[{"attribute": "channel", "equals": "web"}])
    gateway = after["applications"][0]["deployments"][0]["user_config"]
    gateway["attributes"] = {"channel": {"type": "text", "header": "x-channel"}}

    assert "another targeting" in consequences(with_experiment(), after).warnings[0]


def test_an_adaptive_split_moves_nobody_unless_a_variant_leaves() -> None:
    adaptive = {"adaptive": {}, "guardrails": {"errors": {"margin": 0.01}}}
    half = with_experiment(**adaptive, allocation={"stable": 50, "candidate": 50})
    most = with_experiment(**adaptive, allocation={"stable": 90, "candidate": 10})
    less = with_experiment(**adaptive, allocation={"stable": 90, "candidate": 10}, coverage=50)

    assert consequences(half, most).moves == ()
    assert [(m.source, m.target) for m in consequences(half, less).moves] == [
        ("candidate", "stable")
    ]
    assert consequences(half, most | {}).warnings == ()
    anew = with_experiment(**adaptive, allocation={"stable": 90, "candidate": 10}, version=2)
    assert consequences(half, anew).moves != ()
