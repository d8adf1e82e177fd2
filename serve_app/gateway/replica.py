"""The Serve deployment of the gateway: builds what a configuration describes, and keeps watch."""

import asyncio
import functools
import logging
import os
import sqlite3
from contextlib import suppress
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from experiments.events.feedback_keys import stored_key
from experiments.events.lag import lags
from experiments.events.spool import Spool
from serve_app.config import GatewayConfig, RetryConfig, VariantConfig, parse_gateway_config
from serve_app.direct import Inbox
from serve_app.errors import ConfigError, RequestError
from serve_app.events.client import EventClient
from serve_app.events.link import WriterLink
from serve_app.events.writer import spool_path, store_path
from serve_app.gateway.active import Active
from serve_app.gateway.admission import Admission
from serve_app.gateway.auth import check_exposure
from serve_app.gateway.cache import ResponseCache
from serve_app.gateway.capture import TextCapture
from serve_app.gateway.feedback import FeedbackService
from serve_app.gateway.generation import Generator
from serve_app.gateway.inference_ids import InferenceIds, load_secret
from serve_app.gateway.last_good import LastGoodConfig
from serve_app.gateway.policy import Policy
from serve_app.gateway.readiness import GatewayReport, readiness_body
from serve_app.gateway.redis_tier import RedisTier
from serve_app.gateway.retry import RetryBudget
from serve_app.gateway.routes import build_api
from serve_app.gateway.service import Service
from serve_app.gateway.shadow import ShadowTraffic
from serve_app.gateway.sticky import StickyUnits
from serve_app.gateway.variants import VariantClient
from serve_app.telemetry.logs import carril_home, configure_logging
from serve_app.telemetry.merge import Family, relabel, render, snapshot
from serve_app.telemetry.metrics import GatewayMetrics
from serve_app.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

_REFRESH_S = 2.0
"""Period of asking the model replicas for their state."""
_PEER_TIMEOUT_S = 2.0
_LAST_SPANS_S = 2.0
"""How long a gateway that stops tries to send its last traces."""


class GatewayReplica:
    """Answers HTTP. Holds no native code and no model, so that nothing a request does kills it."""

    def __init__(self) -> None:
        context = serve.get_replica_context()
        self._replica = context.replica_id.unique_id
        self._deployment = context.deployment
        self._app = context.app_name
        configure_logging(f"{self._app}-{self._replica}")
        home = carril_home()
        self._metrics = GatewayMetrics()
        self._tracing = Tracing("carril-gateway", self._replica, self._metrics.traces)
        self._writer = WriterLink(home)
        self._spool = Spool(spool_path(home), f"{self._replica}-{os.getpid()}")
        self._home = home
        self._http_host = os.environ.get("CARRIL_HTTP_HOST", "127.0.0.1")
        self._last_good = LastGoodConfig(home)
        self._ids = InferenceIds(load_secret(home))
        self._inbox = Inbox(ray.util.get_node_ip_address())
        self._active: Active | None = None
        self._events: EventClient | None = None
        self._cache: ResponseCache | None = None
        self._redis: RedisTier | None = None
        self._error: str | None = None
        self._watching: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the ASGI application; Serve calls this after the constructor."""
        return build_api(self)

    @property
    def active(self) -> Active | None:
        """The configuration in force."""
        return self._active

    async def reconfigure(self, raw: object) -> None:
        """Put a configuration in force; a bad one is reported and the last good one stays."""
        try:
            config = parse_gateway_config(raw)
            check_exposure(config, self._http_host)
            self._active = self._build(config)
        except ConfigError as error:
            self._refuse(str(error))
            return
        except Exception as error:  # Serve would stop a replica whose reconfigure raises
            logger.exception("configuration refused")
            self._refuse(f"the configuration cannot be put in force: {error}")
            return
        self._error = None
        self._last_good.save(raw)
        self._take_effect(config)

    def _refuse(self, reason: str) -> None:
        """Report a refusal; a replica that starts with a bad configuration takes the last good one.

        Without that, a gateway that dies after a refused deployment would come back useless.
        """
        self._metrics.config_refused.inc()
        self._error = reason
        logger.error("configuration refused", extra={"reason": reason})
        if self._active is not None:
            return
        try:
            config = parse_gateway_config(self._last_good.load())
            check_exposure(config, self._http_host)
            self._active = self._build(config)
        except Exception:
            logger.exception("no earlier configuration to fall back to")
            return
        self._take_effect(config)

    def _take_effect(self, config: GatewayConfig) -> None:
        self._tracing.configure(config.tracing)
        self._metrics.config_info.clear()
        self._metrics.config_info.labels(config.config_hash).set(1)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        logger.info("configuration in force", extra={"config": config.config_hash})

    def count_refusal(self, error: RequestError) -> None:
        """Count a request that never got as far as a variant."""
        self._metrics.refused.labels(error.code).inc()

    async def report(self) -> GatewayReport:
        """Describe this replica for /readyz."""
        config = self._active.config.config_hash if self._active else ""
        return GatewayReport(replica=self._replica, config=config, error=self._error)

    async def own_metrics(self) -> list[Family]:
        """Return this replica's series."""
        if self._active is not None:
            self._metrics.refresh(list(self._active.variants))
        if self._cache is not None:
            self._metrics.cache_entries.set(len(self._cache))
            self._metrics.cache_bytes.set(self._cache.size_bytes)
        if self._active is not None and self._active.config.events.ship_to is not None:
            with suppress(sqlite3.Error):  # no file yet, or a busy one: the last figure stays
                found = await asyncio.to_thread(lags, store_path(self._home))
                # Of several destinations, the one that was told last is the one of now.
                now = max(found, key=lambda lag: lag.shipped_at, default=None)
                self._metrics.events_unshipped.set(now.n_waiting or 0 if now is not None else 0)
        return snapshot(self._metrics.registry, {"replica": self._replica})

    async def readiness(self) -> dict[str, Any]:
        """Return the body of /readyz, from fresh answers of every replica."""
        active = self._active
        gateways = await self._peers("report")
        if active is not None:
            await asyncio.gather(*(variant.refresh() for variant in active.variants.values()))
        return readiness_body(
            gateways or [await self.report()],
            list(active.variants.values()) if active else [],
            spare={shadow.variant for shadow in active.config.shadow.values()} if active else (),
        )

    async def metrics_page(self) -> bytes:
        """Return the Prometheus text of all gateway and model replicas."""
        by_app: dict[str, list[VariantClient]] = {}
        for variant in self._active.variants.values() if self._active else ():
            by_app.setdefault(variant.app, []).append(variant)
        own, *models = await asyncio.gather(
            self._peers("own_metrics"), *(sharers[0].metrics() for sharers in by_app.values())
        )
        pages = list(own or [await self.own_metrics()])
        for sharers, replicas in zip(by_app.values(), models, strict=True):
            # An engine's series are those of all adapters on its model, and must count once.
            name = "+".join(variant.name for variant in sharers)
            pages.extend(relabel(families, {"variant": name}) for families in replicas)
        return render(pages)

    async def check_health(self) -> None:
        """Healthy as long as the event loop answers."""

    def __del__(self) -> None:
        """Send the last traces; Serve calls this when the replica stops."""
        if "_tracing" in vars(self):
            self._tracing.close(_LAST_SPANS_S)

    def _build(self, config: GatewayConfig) -> Active:
        previous = self._active
        budget = RetryBudget(config.retry)
        variants = {
            name: self._variant(
                name, variant, budget, self._inbox if config.direct_streams else None
            )
            for name, variant in config.variants.items()
        }
        first_of_app: dict[str, VariantClient] = {}
        for client in variants.values():
            client.share_gates(first_of_app.setdefault(client.app, client))
        self._cache = self._build_cache(config, previous)
        if self._events is None:
            self._events = EventClient(
                self._writer.append, self._spool, config.events, self._metrics
            )
        self._events.config = config.events
        generator = Generator(variants, self._cache, self._events)
        shadow = self._build_shadow(config, self._events, previous)
        if previous is not None:
            admission = previous.admission  # requests in progress keep their places
            admission.limits = config.limits
        else:
            admission = Admission(config.limits)
        return Active(
            config=config,
            policy=Policy(config),
            sticky=previous.sticky if previous else StickyUnits(self._events, self._metrics),
            variants=variants,
            service=Service(
                generator,
                self._events,
                TextCapture(config.capture, self._events, self._metrics),
                shadow,
                self._metrics,
            ),
            shadow=shadow,
            admission=admission,
            ids=self._ids,
            feedback=FeedbackService(
                config,
                self._events,
                self._ids,
                functools.partial(stored_key, store_path(self._home)),
                self._metrics,
            ),
            tracing=self._tracing,
        )

    def _variant(
        self, name: str, variant: VariantConfig, budget: RetryBudget, inbox: Inbox | None
    ) -> VariantClient:
        client = VariantClient(
            name, variant.app, budget, self._metrics, adapter=variant.adapter, inbox=inbox
        )
        known = self._active.variants.get(name) if self._active else None
        if known is not None and (known.app, known.adapter) == (variant.app, variant.adapter):
            client.adopt(known)
        return client

    def _build_shadow(
        self, config: GatewayConfig, events: EventClient, previous: Active | None
    ) -> ShadowTraffic:
        known = {} if previous is None else previous.shadow.clients
        clients = {}
        for name, shadow in config.shadow.items():
            app, adapter = (target := config.variants[shadow.variant]).app, target.adapter
            # A copy is never repeated, and takes nothing from the budget of users' requests.
            budget = RetryBudget(RetryConfig(max_retries=0, budget_rate=0, budget_min=0))
            clients[name] = VariantClient(
                shadow.variant, app, budget, self._metrics, adapter=adapter
            )
            if name in known and (known[name].app, known[name].adapter) == (app, adapter):
                clients[name].adopt(known[name])
        return ShadowTraffic(
            config.shadow,
            clients,
            events,
            self._metrics,
            None if previous is None else previous.shadow,
        )

    def _build_cache(self, config: GatewayConfig, previous: Active | None) -> ResponseCache | None:
        if previous is not None and previous.config.cache == config.cache:
            return self._cache
        self._redis = None
        if not config.cache.enabled:
            return None
        if config.cache.redis_url is not None:
            self._redis = RedisTier(
                config.cache.redis_url,
                timeout_s=config.cache.redis_timeout_s,
                errors=self._metrics.cache_tier_errors,
            )
        return ResponseCache(config.cache, self._redis)

    async def _watch(self) -> None:
        """Keep the states and weights of the variants current."""
        while True:
            active = self._active
            if active is not None:
                await asyncio.gather(
                    *(variant.refresh() for variant in active.variants.values()),
                    return_exceptions=True,
                )
                # Told again and again, because a writer that was restarted has forgotten.
                self._writer.ship_to(active.config.events.ship_to)
            await asyncio.sleep(_REFRESH_S)

    async def _peers(self, method: str) -> list[Any]:
        """Call a method on every gateway replica, this one included."""
        try:
            handle = await asyncio.to_thread(
                serve.get_deployment_handle, self._deployment, self._app
            )
            answers = await handle.broadcast(method).results_async(
                timeout_s=_PEER_TIMEOUT_S, return_exceptions=True
            )
        except (RayServeException, RayError, TimeoutError):
            return []
        return [answer for answer in answers if not isinstance(answer, BaseException)]
