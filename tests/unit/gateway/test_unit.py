"""The unit of stickiness: order of the sources, tenants apart."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from serve_app.errors import InvalidField
from serve_app.gateway.unit import Unit, resolve_unit

ORDER = [
    ("x-session-id", "header"),
    ("metadata.session_id", "metadata"),
    ("prompt_cache_key", "body"),
    ("user", "body"),
    ("safety_identifier", "body"),
    ("x-openwebui-chat-id", "header"),
    ("chatui-conversation-id", "header"),
]


def request(present: list[str], value: object = None) -> tuple[Headers, dict[str, Any]]:
    headers: dict[str, str] = {}
    body: dict[str, Any] = {}
    for name, place in ORDER:
        if name not in present:
            continue
        content: Any = f"from {name}" if value is None else value
        if place == "header":
            headers[name] = content
        elif place == "metadata":
            body["metadata"] = {"session_id": content, "other": 1}
        else:
            body[name] = content
    return Headers(headers), body


@pytest.mark.parametrize("position", range(len(ORDER)), ids=[name for name, _ in ORDER])
def test_first_present_source_wins(position: int) -> None:
    present = [name for name, _ in ORDER[position:]]
    first = present[0]
    assert resolve_unit(*request(present), "default") == Unit(f"from {first}", first)


def test_empty_source_is_passed_over() -> None:
    headers, body = request(["user"])
    body |= {"prompt_cache_key": "", "metadata": {"session_id": ""}}
    assert resolve_unit(headers, body, "default") == Unit("from user", "user")


@pytest.mark.parametrize("metadata", [None, {}, {"other": "x"}])
def test_no_source_is_no_unit(metadata: object) -> None:
    assert resolve_unit(Headers(), {"metadata": metadata}, "default") is None


@pytest.mark.parametrize("name", [name for name, place in ORDER if place != "header"])
@pytest.mark.parametrize("value", [5, True, ["x"], {"a": 1}, "x" * 513], ids=repr)
def test_session_id_that_is_no_short_text_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidField) as caught:
        resolve_unit(*request([name], value), "default")
    assert caught.value.param == name
    assert name in caught.value.message
    assert "512" in caught.value.message


def test_longest_allowed_session_id() -> None:
    unit = resolve_unit(*request(["user"], "x" * 512), "default")
    assert unit is not None


ids = st.text(min_size=1, max_size=12) | st.sampled_from(["acme/x", "x", "default/x", "/x", "a/b"])


@given(ids, ids, st.permutations(["default", "acme", "other"]))
def test_units_of_different_tenants_never_coincide(a: str, b: str, tenants: list[str]) -> None:
    first = resolve_unit(Headers(), {"user": a}, tenants[0])
    second = resolve_unit(Headers(), {"user": b}, tenants[1])
    assert first is not None
    assert second is not None
    assert first.id != second.id


@given(ids, ids, st.sampled_from(["default", "acme"]))
def test_units_of_one_tenant_coincide_only_if_they_are_the_same(
    a: str, b: str, tenant: str
) -> None:
    first = resolve_unit(Headers(), {"user": a}, tenant)
    second = resolve_unit(Headers(), {"user": b}, tenant)
    assert (first == second) == (a == b)
