"""The native build: what its cache key depends on, and how it fails."""

import dataclasses
import fcntl
import io
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import native_build, terminal_progress
from cluster.native_build import BuildError


def test_the_version_is_read_from_the_cpu_extra_alone(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[project.optional-dependencies]\ncpu = ["llama-cpp-python==1.2.3"]\n')

    assert native_build.pinned_version(pyproject) == "1.2.3"


def test_an_open_version_is_refused(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[project.optional-dependencies]\ncpu = ["llama-cpp-python>=1.2.3"]\n')

    with pytest.raises(BuildError, match="does not pin"):
        native_build.pinned_version(pyproject)


@pytest.mark.parametrize(
    "change",
    ["version", "python_abi", "machine", "cpu_flags_sha256", "compilers", "cmake_args"],
)
def test_anything_that_changes_the_binary_changes_the_cache_directory(change: str) -> None:
    key = native_build.build_key()

    assert dataclasses.replace(key, **{change: "another"}).name != key.name


def test_the_key_does_not_depend_on_where_the_clone_lies() -> None:
    assert str(Path(native_build.__file__).parent) not in native_build.build_key().cmake_args


def test_own_cmake_arguments_come_last_so_that_they_win() -> None:
    arguments = native_build.cmake_args({"CMAKE_ARGS": "-DGGML_NATIVE=OFF"})

    assert arguments.endswith("-DGGML_NATIVE=OFF")
    assert "-DLLAVA_BUILD=OFF" in arguments


def test_cpu_flags_do_not_depend_on_their_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("processor : 0\nflags : avx2 fma\n")
    second.write_text("processor : 0\nflags : fma avx2\n")

    assert native_build.cpu_flags(first) == native_build.cpu_flags(second) == "avx2 fma"


def test_a_missing_compiler_is_named_with_the_line_that_installs_it() -> None:
    with pytest.raises(BuildError, match=r"apt-get install -y gcc g\+\+"):
        native_build.build_key({"CXX": "no-such-compiler"})


def test_the_cache_lies_outside_the_tree(tmp_path: Path) -> None:
    cache = native_build.cache_dir({"XDG_CACHE_HOME": str(tmp_path)})

    assert cache == tmp_path / "carril" / "wheels"


def test_a_wheel_in_the_cache_is_used_without_building(tmp_path: Path) -> None:
    key = native_build.build_key()
    wheel = tmp_path / key.name / "llama_cpp_python-0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()

    assert native_build.build_wheel(key, cache=tmp_path) == wheel


def test_two_builds_at_once_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with native_build._exclusive(path), path.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_failed_build_shows_the_end_of_the_log_and_a_hint(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text("".join(f"line {n}\n" for n in range(100)) + "No space left on device\n")

    text = native_build._failure(log, 1)

    assert "The disk is full." in text
    assert "line 99" in text
    assert "line 10\n" not in text
    assert str(log) in text


def test_progress_off_a_terminal_is_one_line_for_every_ten_percent() -> None:
    stream = io.StringIO()
    progress = terminal_progress.Progress("Compiling", stream=stream, clock=lambda: 0.0)

    for done in range(84):
        progress.update(done, 83)

    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("Compiling:   0 %")
    assert lines[-1].startswith("Compiling: 100 %")


def test_compiler_output_becomes_progress_and_a_log(tmp_path: Path) -> None:
    stream = io.StringIO()
    log = tmp_path / "build.log"
    progress = terminal_progress.Progress("Compiling", stream=stream, clock=lambda: 0.0)
    script = "print('-- configuring'); print('  [1/2] cc a.c'); print('  [2/2] cc b.c')"

    returncode = native_build._run_logged([sys.executable, "-c", script], {}, log, progress)

    assert returncode == 0
    assert log.read_text().splitlines()[0] == "-- configuring"
    assert stream.getvalue().splitlines() == ["Compiling:  50 %  0:00", "Compiling: 100 %  0:00"]


def test_the_module_needs_nothing_but_the_standard_library() -> None:
    command = [sys.executable, "-S", "-c", "import cluster.native_build, cluster.install_lock"]
    root = Path(native_build.__file__).parent.parent

    subprocess.run(command, check=True, cwd=root)
