"""The Serve applications: gateway, router policy, cache, engines, model replicas, telemetry."""

__all__ = ["__version__"]
__version__ = "0.1.0"
