"""vLLM in its own environment and llama.cpp in ours, behind one gateway."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from serve_app.model.folders import hash_folder
from tests.e2e.serving.conftest import ROOT, Server, running
from training.export.huggingface import unpack_gguf

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

QUESTION = "Klk, busco una yipeta pa la familia"
SCHEMA = json.loads((ROOT / "models/okla/profile/answer.schema.json").read_text())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example configuration, with the folder where this test has put it.

    Both applications get the profile without its intent prior and its grounding, which only
    llama.cpp adds: left are two engines over the same weights.
    """
    place = tmp_path_factory.mktemp("vllm")
    folder = place / "okla-v2"
    unpack_gguf(ROOT / "models/okla/okla-v2.Q4_K_M.gguf", folder)
    config = yaml.safe_load((ROOT / "cluster/examples/okla_vllm.yaml").read_text(encoding="utf-8"))
    [app] = [item for item in config["applications"] if item["name"] == "okla-vllm"]
    model = app["deployments"][0]["user_config"]["model"]
    assert model["sha256"] == hash_folder(folder).sha256, "the example names what unpack writes"
    model["path"] = str(folder)
    profile = place / "profile"
    shutil.copytree(ROOT / "models/okla/profile", profile)
    (profile / "profile.yaml").unlink()
    for item in config["applications"]:
        user_config = item["deployments"][0]["user_config"]
        if "profile" in user_config:
            user_config["profile"] = str(profile)
    path = place / "serve.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with running(path) as started:
        yield started


def test_both_engines_answer_alike_and_say_who_they_are(served: Server) -> None:
    client = served.client(timeout=120)
    found = {}
    for model in ("okla-gguf", "okla-vllm"):
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": QUESTION}]
        )
        answer = raw.parse()
        jsonschema.validate(json.loads(answer.choices[0].message.content or ""), SCHEMA)
        assert answer.choices[0].finish_reason == "stop"
        found[raw.headers["x-carril-variant"]] = answer
    assert found["gguf"].usage.prompt_tokens == found["vllm"].usage.prompt_tokens
    assert found["gguf"].system_fingerprint.startswith("llama_cpp-")
    assert found["vllm"].system_fingerprint.startswith("vllm-0.32.")
    one, other = (json.loads(found[name].choices[0].message.content) for name in ("gguf", "vllm"))
    assert one["intent"] == other["intent"]


def test_a_stream_of_vllm_has_many_chunks_and_counts_its_tokens(served: Server) -> None:
    stream = served.client(timeout=120).chat.completions.create(
        model="okla-vllm",
        messages=[{"role": "user", "content": "Quiero financiamiento"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert len(chunks) > 5
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 5


def test_a_folder_that_is_altered_is_not_deployed(served: Server, tmp_path: Path) -> None:
    served.user_config("okla-vllm")["model"]["sha256"] = "0" * 64
    refused = served.carril("deploy", str(served.write()))
    assert refused.returncode == 1
    assert "altered, added or taken away" in refused.stderr
