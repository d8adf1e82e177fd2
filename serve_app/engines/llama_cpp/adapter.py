"""A LoRA adapter: small matrices that are added to a model's weights while it computes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from serve_app.engines.llama_cpp.binding import library
from serve_app.engines.llama_cpp.model import Model
from serve_app.errors import ModelFileError


class AdapterFile(NamedTuple):
    """An adapter whose hash the caller has verified."""

    path: Path
    scale: float
    """Factor of its effect; 1 is what it was trained for."""


class Adapter:
    """An open adapter over a model.

    Args:
        model: The base that it was trained on.
        name: Its name in the configuration.
        file: Where it is.

    Raises:
        ModelFileError: If llama.cpp cannot lay it over this model.
    """

    def __init__(self, model: Model, name: str, file: AdapterFile) -> None:
        self.name = name
        self.scale = file.scale
        self._model = model
        with model.changing:
            self.handle: Any = library().llama_adapter_lora_init(
                model.handle, str(file.path).encode()
            )
        if not self.handle:
            raise ModelFileError(
                f"adapter {name!r}: {file.path.name!r} is no LoRA adapter in GGUF for "
                f"{model.path.name!r}: it is damaged, or was trained on a model of another shape"
            )

    def close(self) -> None:
        """Free it; no context may use it any more, and the model must still be open."""
        with self._model.changing:
            if self.handle:
                library().llama_adapter_lora_free(self.handle)
                self.handle = None


def open_adapters(model: Model, files: Mapping[str, AdapterFile]) -> list[Adapter]:
    """Open the adapters of a model.

    Raises:
        ModelFileError: If one does not fit.
    """
    opened: list[Adapter] = []
    try:
        for name, file in files.items():
            opened.append(Adapter(model, name, file))
    except BaseException:
        for adapter in opened:
            adapter.close()
        raise
    return opened
