"""The Serve applications: gateway, router policy, cache, engines, model replicas, telemetry."""
