"""Inference ids: unique, in order of time, and only recognised by their own tenant."""

import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway.inference_ids import InferenceIds, issued_at, load_secret


def test_ids_are_unique_ordered_and_dated() -> None:
    ids = InferenceIds(b"secret")
    before = time.time()
    made = [ids.new("chatcmpl", "default") for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(before - 0.01 <= issued_at(one) <= time.time() for one in made)
    time.sleep(0.002)
    assert ids.new("chatcmpl", "default") > max(made)


def test_only_the_tenant_of_this_deployment_is_recognised() -> None:
    ids = InferenceIds(b"secret")
    one = ids.new("cmpl", "acme")
    assert ids.owned(one, "acme")
    assert InferenceIds(b"secret").owned(one, "acme"), "another gateway with the same secret"
    assert not ids.owned(one, "globex")
    assert not ids.owned(one, "")
    assert not InferenceIds(b"other").owned(one, "acme")


@given(st.integers(0, 47), st.sampled_from("0123456789abcdef"))
def test_no_digit_can_be_changed(position: int, digit: str) -> None:
    ids = InferenceIds(b"secret")
    one = ids.new("chatcmpl", "acme")
    index = len("chatcmpl-") + position
    changed = one[:index] + digit + one[index + 1 :]
    assert ids.owned(changed, "acme") == (changed == one)


@given(st.text(max_size=80))
def test_any_text_can_be_asked_about(text: str) -> None:
    assert not InferenceIds(b"secret").owned(text, "default")
    with pytest.raises(ValueError, match="no inference id"):
        issued_at(text)


def test_digests_do_not_run_parts_together() -> None:
    ids = InferenceIds(b"secret")
    assert ids.digest("ab", "c") != ids.digest("a", "bc")
    assert ids.digest("a", "b") == InferenceIds(b"secret").digest("a", "b")
    assert ids.digest("a") != InferenceIds(b"other").digest("a")


def test_gateways_that_start_together_share_one_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        secrets = set(pool.map(lambda _: load_secret(tmp_path), range(64)))
    assert len(secrets) == 1
    path = tmp_path / "secrets" / "ids.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["ids.key"]


def test_damaged_secret_is_refused(tmp_path: Path) -> None:
    load_secret(tmp_path)
    (tmp_path / "secrets" / "ids.key").write_bytes(b"short")
    with pytest.raises(ValueError, match="damaged"):
        load_secret(tmp_path)


def test_shared_secret_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRIL_ID_SECRET", "x" * 32)
    assert load_secret(tmp_path / "a") == load_secret(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("CARRIL_ID_SECRET", "short")
    with pytest.raises(ValueError, match="5 characters"):
        load_secret(tmp_path)
