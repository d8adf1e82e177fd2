"""Configuration: strict, with the key, the value and the fix in every refusal."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config import content_hash, load_yaml, parse_gateway_config, parse_model_config
from serve_app.errors import ConfigError
from tests.unit.gateway.builders import RAW_CONFIG, gateway_config, raw_config

EXPERIMENT = RAW_CONFIG["experiments"]["okla-v1-v2"]
LLAMA: dict[str, Any] = {"engine": "llama_cpp", "model": {"path": "x.gguf", "sha256": "0" * 64}}


def experiment(**changes: Any) -> dict[str, Any]:
    return raw_config(experiments={"okla-v1-v2": EXPERIMENT | changes})


def shadow(name: str = "v2", **changes: Any) -> dict[str, Any]:
    """Return a configuration with a third variant that gets copies."""
    return raw_config(
        variants=RAW_CONFIG["variants"] | {"v2": {"app": "okla-v2"}},
        shadow={name: {"variant": "v2", "of": "stable", "percent": 10} | changes},
    )


def test_a_shadow_is_valid_and_off_by_default() -> None:
    assert gateway_config().shadow == {}
    assert parse_gateway_config(shadow()).shadow["v2"].max_in_flight == 4


def test_reference_configuration_is_valid() -> None:
    config = gateway_config()
    assert list(config.models) == ["okla-chat", "okla-chat:text", "fixed"]
    assert len(config.config_hash) == 12


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        pytest.param(None, ["gateway user_config"], id="nothing"),
        pytest.param([], ["gateway user_config"], id="list"),
        pytest.param({}, ["models", "variants"], id="empty"),
        pytest.param(raw_config(surprise=1), ["surprise", "Extra inputs"], id="unknown key"),
        pytest.param(
            raw_config(cache={"ttl": 5}), ["cache.ttl", "Extra inputs"], id="unknown key inside"
        ),
        pytest.param(raw_config(models={}), ["models is empty"], id="no models"),
        pytest.param(
            raw_config(models={"a b": {"variant": "stable"}}), ["'a b'"], id="name of a model"
        ),
        pytest.param(
            raw_config(models={"a@b": {"variant": "stable"}}), ["'a@b'"], id="at sign in a name"
        ),
        pytest.param(
            raw_config(models={"a": {"variant": "stable", "experiment": "okla-v1-v2"}}),
            ["models.a", "exactly one"],
            id="two targets",
        ),
        pytest.param(raw_config(models={"a": {}}), ["models.a", "exactly one"], id="no target"),
        pytest.param(
            raw_config(models={"a": {"experiment": "gone"}}),
            ["models.a.experiment", "'gone'", "okla-v1-v2"],
            id="unknown experiment",
        ),
        pytest.param(
            raw_config(models={"a": {"variant": "gone"}}),
            ["models.a.variant", "'gone'", "stable"],
            id="unknown variant of a model",
        ),
        pytest.param(
            shadow(variant="gone"),
            ["shadow.v2.variant", "'gone'", "['candidate', 'stable', 'v2']"],
            id="unknown variant of a shadow",
        ),
        pytest.param(
            shadow(of="gone"), ["shadow.v2.of", "'gone'"], id="unknown original of a shadow"
        ),
        pytest.param(
            shadow(of="v2"), ["shadow.v2.of", "compared with itself"], id="shadow of itself"
        ),
        pytest.param(
            shadow(variant="candidate", of="stable"),
            ["shadow.v2.variant", "'candidate' answers users", "models.fixed.variant"],
            id="shadow that answers users",
        ),
        pytest.param(
            shadow(variant="stable", of="candidate"),
            ["'stable' answers users", "experiments.okla-v1-v2.allocation: 90 %"],
            id="shadow with a share",
        ),
        pytest.param(
            raw_config(
                variants=RAW_CONFIG["variants"] | {"v2": RAW_CONFIG["variants"]["stable"]},
                shadow={"v2": {"variant": "v2", "of": "candidate", "percent": 10}},
            ),
            ["'v2' answers users", "experiments.okla-v1-v2.allocation: 90 %"],
            id="shadow on the replicas of a variant with a share",
        ),
        pytest.param(
            shadow("okla-v1-v2"), ["shadow.okla-v1-v2", "another name"], id="shadow as experiment"
        ),
        pytest.param(
            shadow(percent=0), ["shadow.v2.percent", "greater than 0", "got 0"], id="no share"
        ),
        pytest.param(
            shadow(percent=101), ["shadow.v2.percent", "100", "got 101"], id="share above 100"
        ),
        pytest.param(
            shadow(max_in_flight=0), ["shadow.v2.max_in_flight", "got 0"], id="shadow of nothing"
        ),
        pytest.param(shadow(queue=5), ["shadow.v2.queue", "Extra inputs"], id="queue of a shadow"),
        pytest.param(
            experiment(allocation={"stable": 90, "gone": 10}),
            ["okla-v1-v2.allocation", "'gone'", "candidate"],
            id="unknown variant in a split",
        ),
        pytest.param(
            experiment(allocation={"stable": 90, "candidate": 7}),
            ["experiments.okla-v1-v2", "97 %", "100 %"],
            id="weights of 97",
        ),
        pytest.param(
            experiment(allocation={"stable": 0.9, "candidate": 0.1}),
            ["1 %", "100 %"],
            id="weights as shares",
        ),
        pytest.param(
            experiment(allocation={"stable": 110, "candidate": -10}), ["110"], id="negative weight"
        ),
        pytest.param(
            experiment(allocation={"stable": 33.333, "candidate": 66.667}), ["0.01"], id="too fine"
        ),
        pytest.param(experiment(allocation={"candidate": 100}), ["'stable'"], id="no control"),
        pytest.param(experiment(control="gone"), ["'gone'"], id="unknown control"),
        pytest.param(experiment(salt=""), ["salt"], id="empty salt"),
        pytest.param(experiment(version=0), ["version", "0"], id="version zero"),
        pytest.param(experiment(unit="user"), ["unit", "'user'", "session"], id="unknown unit"),
        pytest.param(raw_config(cache={"ttl_s": 0}), ["cache.ttl_s", "0"], id="ttl zero"),
        pytest.param(raw_config(limits={"max_tokens": -1}), ["limits.max_tokens"], id="limit"),
        pytest.param(
            raw_config(limits={"deadline_s": float("nan")}), ["limits.deadline_s"], id="NaN"
        ),
        pytest.param(
            raw_config(limits={"deadline_s": float("inf")}), ["limits.deadline_s"], id="infinite"
        ),
        pytest.param(
            raw_config(auth={"keys": [{"name": "k", "sha256": "secret"}]}),
            ["auth.keys.0.sha256"],
            id="key in clear",
        ),
        pytest.param(
            raw_config(auth={"keys": [{"name": n, "sha256": "ab" * 32} for n in "ab"]}),
            ["same hash"],
            id="key twice",
        ),
        pytest.param(
            raw_config(cache={"redis_url": "localhost:6379"}),
            ["cache.redis_url", "redis://"],
            id="Redis address without a scheme",
        ),
        pytest.param(
            raw_config(cache={"redis_url": "redis://host:port/0"}),
            ["cache.redis_url"],
            id="Redis address without a port number",
        ),
        pytest.param(
            raw_config(events={"durability": "maybe"}), ["events.durability"], id="durability"
        ),
        pytest.param(
            raw_config(events={"ship_to": "events.db"}),
            ["events.ship_to", "postgresql://"],
            id="central database that is a file",
        ),
        pytest.param(
            raw_config(events={"ship_to": "postgresql://host"}),
            ["events.ship_to"],
            id="central database without a name",
        ),
    ],
)
def test_bad_gateway_configuration_is_refused(raw: Any, names: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_gateway_config(raw)
    for name in names:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://host", "redis://:secret@host:6379/0", "rediss://host:6380/1", "unix:///s.sock"]
)
def test_redis_addresses(url: str) -> None:
    assert gateway_config(cache={"redis_url": url}).cache.redis_url == url


def test_refusal_does_not_repeat_a_secret() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_gateway_config(raw_config(cache={"redis_url": "http://:hunter2@host"}))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        parse_gateway_config(raw_config(events={"ship_to": "postgresql://u:p@hunter2@host/x"}))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        parse_gateway_config(raw_config(auth={"keys": [{"name": "k", "sha256": "hunter2"}]}))
    assert "hunter2" not in str(caught.value)


MODEL = {"path": "a.gguf", "sha256": "ab" * 32}


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        pytest.param({}, ["engine"], id="no engine"),
        pytest.param({"engine": "gpt"}, ["engine", "'gpt'", "llama_cpp"], id="unknown engine"),
        pytest.param({"engine": "llama_cpp"}, ["llama_cpp", "model: {path, sha256}"], id="no file"),
        pytest.param(
            {"engine": "llama_cpp", "model": MODEL | {"sha256": "AB" * 32}},
            ["model.sha256"],
            id="hash in capitals",
        ),
        pytest.param(
            {"engine": "llama_cpp", "model": MODEL | {"path": "a.pickle"}},
            ["model.path", "'a.pickle'", ".gguf"],
            id="no GGUF",
        ),
        pytest.param(
            {"engine": "llama_cpp", "model": MODEL | {"path": "a\x00.gguf"}}, ["path"], id="NUL"
        ),
        pytest.param(
            {"engine": "vllm", "model": MODEL},
            ["model.path", "a.gguf", "unpack"],
            id="GGUF for vllm",
        ),
        pytest.param(
            {"engine": "vllm", "model": MODEL | {"path": "a"}, "vllm": {"dtype": "int4"}},
            ["vllm.dtype", "'int4'", "bfloat16"],
            id="unknown dtype",
        ),
        pytest.param(
            {"engine": "vllm", "model": MODEL | {"path": "a"}, "vllm": {"max_num_seqs": 4}},
            ["vllm.max_num_seqs"],
            id="unknown option of vllm",
        ),
        pytest.param({"engine": "echo", "n_slots": 0}, ["n_slots", "0"], id="no slots"),
        pytest.param({"engine": "echo", "echo": {"tags": "x"}}, ["echo.tags"], id="unknown key"),
        pytest.param({"engine": "echo", "echo": {"fail_rate": 2}}, ["fail_rate", "2"], id="rate"),
    ],
)
def test_bad_model_configuration_is_refused(raw: Any, names: list[str]) -> None:
    with pytest.raises(ConfigError, match="okla-stable user_config") as caught:
        parse_model_config(raw, app="okla-stable")
    for name in names:
        assert name in str(caught.value)


def test_every_fault_is_reported_at_once() -> None:
    raw = raw_config(surprise=1, cache={"ttl_s": 0}, limits={"max_tokens": 0})
    with pytest.raises(ConfigError) as caught:
        parse_gateway_config(raw)
    for name in ("surprise", "cache.ttl_s", "limits.max_tokens"):
        assert name in str(caught.value)


def test_hash_ignores_the_order_of_keys() -> None:
    reordered = dict(reversed(RAW_CONFIG.items()))
    assert parse_gateway_config(reordered).config_hash == gateway_config().config_hash
    turned = experiment(allocation={"candidate": 10, "stable": 90})
    assert parse_gateway_config(turned).config_hash == gateway_config().config_hash


def test_hash_says_that_written_defaults_are_no_change() -> None:
    assert gateway_config(cache={"ttl_s": 3600}).config_hash == gateway_config().config_hash
    assert gateway_config(cache={"ttl_s": 60}).config_hash != gateway_config().config_hash


def test_hash_of_a_split_depends_on_its_value_not_its_spelling() -> None:
    spelled = experiment(allocation={"stable": "90.0", "candidate": 10.00})
    assert parse_gateway_config(spelled).config_hash == gateway_config().config_hash


def test_model_hash_sees_the_weights() -> None:
    one = parse_model_config({"engine": "llama_cpp", "model": MODEL})
    two = parse_model_config({"engine": "llama_cpp", "model": MODEL | {"sha256": "cd" * 32}})
    assert content_hash(one) != content_hash(two)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param("a: 1\na: 2\n", ["'a'", "twice", "line 2"], id="key twice"),
        pytest.param("x:\n  a: 1\n  b: 2\n  a: 3\n", ["'a'", "line 4"], id="key twice inside"),
        pytest.param("x: [{a: 1, a: 2}]", ["'a'"], id="key twice in a flow"),
        pytest.param("a: [1", ["not valid YAML"], id="cut"),
        pytest.param("? [a, b]\n: 1\n", ["not valid YAML"], id="list as a key"),
        pytest.param("? {a: 1}\n: 1\n", ["not valid YAML"], id="mapping as a key"),
        pytest.param("a: !!python/object/apply:os.system [ls]", ["not valid YAML"], id="code"),
        pytest.param("a: \x01", ["not valid YAML"], id="control character"),
    ],
)
def test_bad_yaml_is_refused_with_its_place(text: str, names: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_yaml(text)
    for name in names:
        assert name in str(caught.value)


def test_yaml_anchors_and_merges_work() -> None:
    text = "base: &base {a: 1, b: 2}\nmore:\n  <<: *base\n  b: 3\n"
    assert load_yaml(text) == {"base": {"a": 1, "b": 2}, "more": {"a": 1, "b": 3}}


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        load_yaml(text)


def test_shipped_configuration_is_valid() -> None:
    path = Path(__file__).parents[3] / "serve_config.yaml"
    raw = load_yaml(path.read_text(encoding="utf-8"))
    assert isinstance(raw, dict)
    configs = {
        app["name"]: deployment["user_config"]
        for app in raw["applications"]
        for deployment in app["deployments"]
    }
    gateway = parse_gateway_config(configs.pop("gateway"))
    for name, config in configs.items():
        parse_model_config(config, app=name)
    assert {variant.app for variant in gateway.variants.values()} <= set(configs)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (LLAMA | {"llama_cpp": {"packin": False}}, "llama_cpp.packin: .*did you mean 'packing'"),
        (LLAMA | {"idle": {"minutes": 5}}, "allowed: unload_after_s, wake_timeout_s"),
        (LLAMA | {"adapters": {"a": {"skale": 1}}}, r"adapters\.a\.skale: .*did you mean 'scale'"),
        (LLAMA | {"colour": "red"}, r"colour: .*take it out \(got 'red'\)"),
    ],
)
def test_an_unknown_key_is_answered_with_the_known_ones(raw: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_model_config(raw)


def test_keys_are_found_below_optional_parts_and_lists() -> None:
    key = {"name": "k", "sha256": "0" * 64, "priorty": "batch"}
    with pytest.raises(ConfigError, match=r"auth\.keys\.0\.priorty: .*did you mean 'priority'"):
        parse_gateway_config(raw_config(auth={"keys": [key]}))


@pytest.mark.parametrize("missing", ["prefix_cache", "pin_system_prompt"])
def test_a_disk_cache_of_nothing_is_refused(missing: str) -> None:
    options = {"disk_prefix_cache": True, missing: False}
    with pytest.raises(ConfigError, match=r"disk_prefix_cache .* needs prefix_cache: true"):
        parse_model_config(LLAMA | {"llama_cpp": options})
    assert parse_model_config(LLAMA | {"llama_cpp": {missing: False}})
