"""The status document, also when nothing runs."""

from typing import Any

from cluster.process_tree import ProcessInfo
from cluster.status_report import status_document

URLS = {"http_url": "http://h", "dashboard_url": "http://d"}
GATEWAY: dict[str, Any] = {
    "name": "gateway",
    "import_path": "serve_app.app:build_gateway",
    "deployments": [
        {
            "name": "gateway",
            "user_config": {
                "models": {"m": {"experiment": "e"}},
                "variants": {"a": {"app": "x"}, "b": {"app": "y"}, "c": {"app": "z"}},
                "experiments": {
                    "e": {"salt": "s", "control": "a", "allocation": {"a": 70, "b": 30}}
                },
                "shadow": {"s": {"variant": "c", "of": "a", "percent": 10}},
            },
        }
    ],
}


def test_nothing_running_is_a_document_too() -> None:
    document = status_document(details=None, readyz=None, processes=[], **URLS)

    assert not document["running"]
    assert document["status"] == "down"
    assert document["applications"] == document["variants"] == []


def test_split_config_and_memory_are_shown() -> None:
    details = {
        "applications": {
            "gateway": {"status": "RUNNING", "deployed_app_config": GATEWAY, "deployments": {}}
        }
    }
    processes = [
        ProcessInfo(pid=1, name="small", rss_bytes=100, shared_bytes=40),
        ProcessInfo(pid=2, name="large", rss_bytes=500, shared_bytes=40),
    ]

    document = status_document(
        details=details, readyz={"status": "ready", "config": "abc"}, processes=processes, **URLS
    )

    assert document["status"] == "ready"
    assert document["config"] == "abc"
    assert document["experiments"][0]["allocation"] == {"a": 70.0, "b": 30.0}
    assert document["shadows"] == [{"name": "s", "variant": "c", "of": "a", "percent": 10.0}]
    assert document["memory_bytes"] == 520
    assert [item["name"] for item in document["processes"]] == ["large", "small"]


def test_a_config_that_cannot_be_read_hides_nothing_else() -> None:
    broken = {**GATEWAY, "deployments": [{"name": "gateway", "user_config": {"x": 1}}]}
    details = {"applications": {"gateway": {"status": "RUNNING", "deployed_app_config": broken}}}

    document = status_document(details=details, readyz=None, processes=[], **URLS)

    assert document["experiments"] == []
    assert document["applications"][0]["status"] == "RUNNING"
