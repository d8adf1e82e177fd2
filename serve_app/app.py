"""The composition root: the application builders that `serve_config.yaml` names.

Nothing operational is an argument here: arguments restart replicas, `user_config` does not.
"""

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from serve_app.gateway.replica import GatewayReplica
from serve_app.model.replica import ModelReplica

_QUIET = LoggingConfig(enable_access_log=False)
"""carril writes a log line per request itself, with what Serve does not know."""


class NoArgs(BaseModel):
    """Builders take no arguments; change `user_config` instead, which restarts nothing."""

    model_config = ConfigDict(extra="forbid")


def build_gateway(_args: NoArgs) -> Application:
    """Build the application `gateway`, the only one with a route."""
    deployment = serve.deployment(
        name="gateway",
        num_replicas=2,
        max_ongoing_requests=1024,  # the gateway bounds itself, with OpenAI errors
        max_queued_requests=1024,
        ray_actor_options={"num_cpus": 0.1},
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=120,
        max_surge_percent=100,
        logging_config=_QUIET,
    )(serve.ingress()(GatewayReplica))
    return deployment.bind()


def build_model(_args: NoArgs) -> Application:
    """Build one model application; it has no route, gateways reach it by name."""
    deployment = serve.deployment(
        name="model",
        num_replicas=1,
        max_ongoing_requests=48,  # more than two gateways' lesser work: see gateway/variants.py
        max_queued_requests=256,
        ray_actor_options={"num_cpus": 0.5},
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=120,
        logging_config=_QUIET,
    )(ModelReplica)
    return deployment.bind()
