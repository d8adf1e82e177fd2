import tarfile
from pathlib import Path

import pytest

from tests.benchmarks import peers
from tests.benchmarks.cache import bench_cache
from tests.benchmarks.source import PeerError, unpack


@pytest.fixture
def binaries(tmp_path: Path) -> Path:
    folder = tmp_path / "build" / "bin"
    folder.mkdir(parents=True)
    for name in peers.PROGRAMS:
        program(folder / name, 'exec test -n "$LD_LIBRARY_PATH"')
    (folder / "libllama.so.0").write_text("library", encoding="utf-8")
    (folder / "libllama.so").symlink_to("libllama.so.0")
    (folder / "CMakeFiles").mkdir()
    return folder


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def test_kept_programs_need_nothing_of_the_build(binaries: Path, tmp_path: Path) -> None:
    peers.keep(binaries, tmp_path / "kept", peers.peer_key())
    kept = tmp_path / "kept" / "bin"
    assert {file.name for file in kept.iterdir()} == {
        *peers.PROGRAMS,
        "libllama.so",
        "libllama.so.0",
    }
    assert not any(file.is_symlink() for file in kept.iterdir())
    assert peers.is_complete(kept)
    assert (tmp_path / "kept" / "key.json").exists()


def test_programs_that_do_not_start_are_not_kept(binaries: Path, tmp_path: Path) -> None:
    program(binaries / "llama-server", "exit 127")
    with pytest.raises(PeerError, match="do not start"):
        peers.keep(binaries, tmp_path / "kept", peers.peer_key())
    assert not (tmp_path / "kept").exists()


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerError, match=r"cmake and ninja not found.*apt-get install"):
        peers.configure(tmp_path, tmp_path / "build")


def test_a_failed_configuration_shows_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "cmake", "echo 'CMake Error: no such source'; exit 1")
    program(tmp_path / "ninja", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(PeerError, match=r"(?s)exit 1.*no such source"):
        peers.configure(tmp_path, tmp_path / "build")


def test_the_key_tells_peers_from_carrils_own_build() -> None:
    key = peers.peer_key()
    assert "-DGGML_NATIVE=ON" in key.cmake_args
    assert key.name.startswith(key.version)


def test_a_peer_runs_without_what_carril_sets_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    found = peers.environment(tmp_path)
    assert "OMP_WAIT_POLICY" not in found
    assert found["LD_LIBRARY_PATH"] == str(tmp_path)


def test_source_appears_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "pkg_1.0" / "vendor").mkdir(parents=True)
    with tarfile.open(tmp_path / "pkg.tar.gz", "w:gz") as file:
        file.add(tmp_path / "pkg_1.0", "pkg_1.0")
    unpack(tmp_path / "pkg.tar.gz", tmp_path / "pkg-1.0")
    assert (tmp_path / "pkg-1.0" / "vendor").is_dir()


def test_cache_follows_the_user_s_own_place() -> None:
    assert bench_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/carril/bench")
