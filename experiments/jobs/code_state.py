"""Which code runs: commit, and whether the checkout has changes that no commit names."""

import hashlib
import importlib.metadata
import shutil
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, or the folder that the packages are installed in."""
_PARTS = ("experiments", "training", "models")
"""What a job runs or reads; an edit elsewhere makes no other job."""


class CodeState(BaseModel):
    """The code of this process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    """Version of the installed package."""
    commit: str | None = None
    """Git commit, null outside a checkout."""
    dirty: bool | None = None
    """Whether tracked files that a job uses differ from the commit; null outside a checkout."""
    diff_sha256: str | None = None
    """Hash of that difference, null without one."""

    @property
    def identity(self) -> str:
        """One string that differs where the code does."""
        return "+".join(part for part in (self.version, self.commit, self.diff_sha256) if part)


def code_state(root: Path = ROOT) -> CodeState:
    """Return the state of the code; Git is asked where there is one."""
    version = importlib.metadata.version("carril")
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return CodeState(version=version)
    diff = _git(root, "diff", "HEAD", "--binary", "--", *_PARTS) or b""
    return CodeState(
        version=version,
        commit=commit.decode().strip(),
        dirty=bool(diff),
        diff_sha256=hashlib.sha256(diff).hexdigest() if diff else None,
    )


def _git(root: Path, *arguments: str) -> bytes | None:
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    done = subprocess.run([git, "-C", str(root), *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None
