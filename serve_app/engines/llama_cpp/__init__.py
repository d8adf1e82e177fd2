"""Continuous batching of a GGUF model on CPUs, on the low-level API of llama.cpp."""

from serve_app.engines.llama_cpp.adapter import AdapterFile
from serve_app.engines.llama_cpp.engine import LlamaCppEngine, load

__all__ = ["AdapterFile", "LlamaCppEngine", "load"]
