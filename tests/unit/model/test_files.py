"""Model files are opened only after their content has the expected hash."""

import hashlib
import os
from pathlib import Path

import pytest

from serve_app.config import ModelFileConfig
from serve_app.errors import ModelFileError
from serve_app.model.files import check_unchanged, verify_model_file

CONTENT = b"GGUF" + bytes(range(256)) * 100


def model(path: Path, content: bytes = CONTENT, *, sha256: str | None = None) -> ModelFileConfig:
    path.write_bytes(content)
    return ModelFileConfig(path=str(path), sha256=sha256 or hashlib.sha256(content).hexdigest())


def test_right_file_is_accepted(tmp_path: Path) -> None:
    file = verify_model_file(model(tmp_path / "a.gguf"))
    assert file.size_bytes == len(CONTENT)
    assert file.sha256 == hashlib.sha256(CONTENT).hexdigest()
    check_unchanged(file)


def test_altered_file_is_refused_with_both_hashes(tmp_path: Path) -> None:
    config = model(tmp_path / "a.gguf")
    data = bytearray(CONTENT)
    data[1000] ^= 1
    Path(config.path).write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        verify_model_file(config)
    assert config.sha256 in str(caught.value)
    assert hashlib.sha256(data).hexdigest() in str(caught.value)
    assert config.path in str(caught.value)


@pytest.mark.parametrize("n_bytes", [0, 3, 100])
def test_truncated_file_is_refused(tmp_path: Path, n_bytes: int) -> None:
    config = model(tmp_path / "a.gguf")
    Path(config.path).write_bytes(CONTENT[:n_bytes])
    with pytest.raises(ModelFileError):
        verify_model_file(config)


def test_missing_file_is_refused_with_where_it_was_looked_for(tmp_path: Path) -> None:
    config = ModelFileConfig(path=str(tmp_path / "gone.gguf"), sha256="ab" * 32)
    with pytest.raises(ModelFileError, match="does not exist"):
        verify_model_file(config)


def test_file_that_is_no_gguf_is_refused_even_with_the_right_hash(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no GGUF"):
        verify_model_file(model(tmp_path / "a.gguf", b"PK\x03\x04" + b"x" * 100))


def test_directory_and_pipe_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.gguf").mkdir()
    os.mkfifo(tmp_path / "p.gguf")
    for name in ("d.gguf", "p.gguf"):
        with pytest.raises(ModelFileError):
            verify_model_file(ModelFileConfig(path=str(tmp_path / name), sha256="ab" * 32))


@pytest.mark.parametrize("change", ["write", "replace", "remove"])
def test_file_that_changes_after_the_check_is_noticed(tmp_path: Path, change: str) -> None:
    config = model(tmp_path / "a.gguf")
    file = verify_model_file(config)
    path = Path(config.path)
    if change == "write":
        path.write_bytes(CONTENT[::-1])
        os.utime(path, ns=(1, 1))
    elif change == "replace":
        (tmp_path / "b").write_bytes(CONTENT)
        (tmp_path / "b").replace(path)
    else:
        path.unlink()
    with pytest.raises(ModelFileError, match="changed while"):
        check_unchanged(file)
