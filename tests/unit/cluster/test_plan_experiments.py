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
