"""What is installed has every file that the code reads."""

import fnmatch
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("serve_app", "experiments", "training", "cluster")
NOT_READ = (".py", ".pyc", ".md")


def test_every_data_file_of_the_packages_is_installed_with_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [patterns] = project["tool"]["setuptools"]["package-data"].values()
    files = [
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in NOT_READ
    ]
    left_out = [
        str(path.relative_to(ROOT))
        for path in files
        if not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
    ]
    assert files
    assert left_out == []
