"""Memory estimates, the GGUF header, doctor's judgements, and whose processes are whose."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster import doctor, process_tree
from cluster.errors import CommandError
from cluster.gguf_header import HeaderError, ModelShape, read_shape
from cluster.memory import BASE_BYTES, MemoryNeed, kv_bytes, memory_need
from cluster.preflight import check_memory, check_ports
from cluster.validate import ServeConfig
from serve_app.config import ModelConfig, parse_model_config


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def gguf(**numbers: int) -> bytes:
    """A header of a llama with an array before its numbers, as real files have."""
    keys = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("tokenizer.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc"),
    ]
    keys += [
        text(f"llama.{name}") + struct.pack("<II", 4, value) for name, value in numbers.items()
    ]
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(keys)


def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    numbers = {
        "block_count": 32,
        "embedding_length": 4096,
        "attention.head_count": 32,
        "attention.head_count_kv": 8,
    }
    path.write_bytes(gguf(**numbers))
    return path


def model_config(path: Path, **options: object) -> ModelConfig:
    model = {"path": str(path), "sha256": "a" * 64}
    return parse_model_config({"engine": "llama_cpp", "model": model, **options})


def test_the_shape_of_llama_3_8b_is_read(tmp_path: Path) -> None:
    shape = read_shape(model_file(tmp_path))

    assert shape == ModelShape(n_layers=32, n_kv_heads=8, head_size=128)
    # 2 (key, value) x 32 layers x 8 heads x 128 values x 2 bytes, as in llama.cpp's own report.
    assert shape.kv_token_bytes() == 131_072


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"PK\x03\x04 something else", id="another format"),
        pytest.param(b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), id="impossible key count"),
        pytest.param(
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**60), id="huge string"
        ),
        pytest.param(gguf(block_count=3), id="no dimensions"),
    ],
)
def test_a_bad_header_is_an_error_and_no_crash(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)

    with pytest.raises(HeaderError):
        read_shape(path)


def test_the_cache_of_an_engine_is_bounded_as_the_engine_bounds_it(tmp_path: Path) -> None:
    path = model_file(tmp_path)

    assert kv_bytes(model_config(path, n_ctx=1024, n_slots=1)) == 2 * 1024 * 131_072
    assert kv_bytes(model_config(path, n_ctx=4096, n_slots=16)) == 2 << 30
    # One full context is always given, however large.
    assert kv_bytes(model_config(path, n_ctx=32_768, n_slots=1)) == 32_768 * 131_072


def test_a_file_that_two_variants_share_is_counted_once(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    models = {"a": model_config(path), "b": model_config(path)}
    config = ServeConfig(path=path, raw={"applications": []}, models=models)

    shared = memory_need(config, {"a": 5 << 30, "b": 5 << 30})

    weights_and_caches = shared.steady_bytes - BASE_BYTES
    assert 5 << 30 < weights_and_caches < (5 << 30) + 2 * ((2 << 30) + (300 << 20))


def test_a_config_that_cannot_fit_is_refused_and_a_tight_one_warned_about() -> None:
    available = psutil.virtual_memory().available

    with pytest.raises(CommandError, match="of memory"):
        check_memory(MemoryNeed(steady_bytes=available * 2, swap_bytes=0))
    assert check_memory(MemoryNeed(steady_bytes=1, swap_bytes=available * 2)) is not None
    assert check_memory(MemoryNeed(steady_bytes=1, swap_bytes=1)) is None


def test_a_taken_port_is_named_with_its_owner() -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import socket; s = socket.create_server(('127.0.0.1', 0)); "
            "print(s.getsockname()[1], flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        with pytest.raises(CommandError, match=f"port {port} .* by .*{holder.pid}"):
            check_ports([("http", port)])
        holder.communicate("\n")


def test_only_processes_with_the_mark_and_their_children_are_members() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    environment = {**os.environ, process_tree.CLUSTER_ID_VARIABLE: "test-mark"}
    with (
        subprocess.Popen(
            [sys.executable, "-c", f"print(1, flush=True); {child}"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as marked,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other,
    ):
        assert marked.stdout is not None
        marked.stdout.readline()

        members = process_tree.members("test-mark")
        process_tree.terminate(members, grace_s=5)

        assert marked.pid in {process.pid for process in members}
        assert other.pid not in {process.pid for process in members}
        assert other.poll() is None
        assert not any(process.is_running() for process in members)
        other.communicate(b"\n")


def test_a_pid_that_now_belongs_to_another_process_is_left_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        created_at = psutil.Process(other.pid).create_time()

        assert process_tree.members("none", known_pids=[(other.pid, created_at - 100)]) == []
        found = process_tree.members("none", known_pids=[(other.pid, created_at)])

        assert [process.pid for process in found] == [other.pid]
        other.communicate(b"\n")


def test_instructions_that_llama_cpp_leaves_unused_are_found() -> None:
    cpu = {"avx2", "fma", "avx512_vnni"}

    assert doctor.unused_instructions(cpu, {"AVX2"}) == ["fma", "avx512_vnni"]
    assert doctor.unused_instructions(cpu, {"AVX2", "FMA", "AVX512_VNNI"}) == []


def test_pins_are_read_from_a_lock_with_hashes(tmp_path: Path) -> None:
    lock = tmp_path / "base.lock"
    lock.write_text("# by make lock\nray==2.60.0 \\\n    --hash=sha256:aa\n    # via carril\n")

    assert doctor.locked_versions(lock) == {"ray": "2.60.0"}


def test_every_problem_that_doctor_can_name_has_a_fix_or_is_a_warning(tmp_path: Path) -> None:
    findings = doctor.examine(tmp_path / "none.yaml")

    by_name = {finding.name: finding for finding in findings}
    assert by_name["config"].level is doctor.Level.FAIL
    assert all(finding.fix for finding in findings if finding.level is doctor.Level.FAIL)
    assert {"python", "packages", "compiler", "cpu", "llama.cpp", "disk", "ports"} <= set(by_name)
