"""Hugging Face folders are opened only if every file in them is the expected one."""

import os
import subprocess
from pathlib import Path

import pytest

from serve_app.config import ModelFileConfig
from serve_app.errors import ModelFileError
from serve_app.model.folders import check_folder_unchanged, hash_folder, verify_model_folder

FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model-00001-of-00002.safetensors": b"a" * 100,
    "model-00002-of-00002.safetensors": b"b" * 50,
    "ñandú con espacios.md": b"hola",
    "sub/Z": b"z",
    "sub/a": b"",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Llama-3.2-1B"
    for name, content in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def config(path: Path) -> ModelFileConfig:
    return ModelFileConfig(path=str(path), sha256=hash_folder(path).sha256)


def test_the_hash_is_that_of_the_documented_command(folder: Path) -> None:
    command = r"find . -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True
    )
    assert hash_folder(folder).sha256 == done.stdout.split()[0]


def test_right_folder_is_accepted_with_the_size_of_all_files(folder: Path) -> None:
    verified = verify_model_folder(config(folder))
    assert verified.size_bytes == sum(map(len, FILES.values()))
    check_folder_unchanged(verified)


@pytest.mark.parametrize("change", ["write", "add", "remove", "rename", "move"])
def test_any_change_is_another_folder(folder: Path, change: str) -> None:
    expected = config(folder)
    verified = verify_model_folder(expected)
    file = folder / "config.json"
    match change:
        case "write":
            (folder / "sub/a").write_bytes(b"x")
        case "add":
            (folder / "sub" / "new").touch()
        case "remove":
            (folder / "sub/a").unlink()
        case "rename":
            (folder / "sub/a").rename(folder / "sub/b")
        case "move":
            file.rename(folder / "sub/config.json")
    with pytest.raises(ModelFileError, match="altered, added or taken away") as caught:
        verify_model_folder(expected)
    assert expected.sha256 in str(caught.value)
    assert hash_folder(folder).sha256 in str(caught.value)
    with pytest.raises(ModelFileError, match="changed while"):
        check_folder_unchanged(verified)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pytorch_model.bin", b"x", "pickled weights can run code"),
        ("sub/training.pt", b"x", "pickled weights"),
        ("sub/odd\nname", b"x", "odd file name"),
    ],
)
def test_what_is_not_served_is_refused_even_with_the_right_hash(
    folder: Path, name: str, content: bytes, message: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        verify_model_folder(config(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "*.safetensors"])
def test_a_folder_without_what_is_needed_is_refused(folder: Path, name: str) -> None:
    for file in folder.glob(name):
        file.unlink()
    with pytest.raises(ModelFileError, match=name.replace("*", r"\*")):
        verify_model_folder(config(folder))


def test_missing_folder_file_pipe_and_linked_folder_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    wanted = "ab" * 32
    with pytest.raises(ModelFileError, match="does not exist"):
        verify_model_folder(ModelFileConfig(path=str(tmp_path / "gone"), sha256=wanted))
    with pytest.raises(ModelFileError, match="no folder"):
        verify_model_folder(ModelFileConfig(path=str(folder / "config.json"), sha256=wanted))
    os.mkfifo(folder / "pipe")
    with pytest.raises(ModelFileError, match="no regular file"):
        verify_model_folder(ModelFileConfig(path=str(folder), sha256=wanted))
    (folder / "pipe").unlink()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ModelFileError, match="link to a folder"):
        verify_model_folder(ModelFileConfig(path=str(folder), sha256=wanted))


def test_links_to_files_count_with_their_content(folder: Path, tmp_path: Path) -> None:
    before = hash_folder(folder).sha256
    blob = tmp_path / "blob"
    (folder / "config.json").rename(blob)
    (folder / "config.json").symlink_to(blob)
    assert hash_folder(folder).sha256 == before
