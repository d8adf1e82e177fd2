"""Where a training stands, on disk."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch

from experiments.whole_file import opened_whole


def save_checkpoint(path: Path, content: Mapping[str, object]) -> None:
    """Write a checkpoint that `torch.load` reads with `weights_only`.

    Args:
        path: Where; its folder must exist.
        content: State dictionaries and plain values.

    Raises:
        OSError: If it cannot be written; the checkpoint that was there stays.
    """
    # In memory first: torch's own writer hides the reason of a failure, such as a full disk.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    with opened_whole(path) as file:
        file.write(buffer.getbuffer())
