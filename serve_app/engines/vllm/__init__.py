"""A Hugging Face folder behind vLLM: on GPUs, or on CPUs with vLLM's CPU build."""

from serve_app.engines.vllm.engine import VllmEngine, load

__all__ = ["VllmEngine", "load"]
