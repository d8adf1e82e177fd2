"""Units of an adaptive experiment keep their first variant, wherever the split has moved since.

Who was first is asked of the store by writing: the exposure's key takes one row, so the writer's
answer is the unit's first variant, the same for every gateway of the node and after every crash. A
unit that this gateway has seen is not asked about again; forgetting it costs one question.
"""

import time
from collections import OrderedDict
from dataclasses import replace

from experiments.assignment import Assignment
from experiments.events.records import Exposure, Kept
from serve_app.config import GatewayConfig
from serve_app.events.client import EventClient
from serve_app.gateway.policy import Decision
from serve_app.gateway.prepare import Inbound, Prepared
from serve_app.gateway.variants import VariantClient
from serve_app.telemetry.metrics import GatewayMetrics

_MAX_KNOWN = 100_000
"""Units that a gateway remembers, the latest ones; about 30 MB."""

_Key = tuple[str, int, str]


class StickyUnits:
    """Settles which variant a unit of an adaptive experiment gets.

    Args:
        events: Where exposures go, and where first ones come from.
        metrics: Counts where variants came from.
        max_known: Units remembered at most.
    """

    def __init__(
        self, events: EventClient, metrics: GatewayMetrics, *, max_known: int = _MAX_KNOWN
    ) -> None:
        self._events = events
        self._metrics = metrics
        self._max_known = max_known
        self._known: OrderedDict[_Key, Kept] = OrderedDict()

    async def settle(
        self,
        prepared: Prepared,
        inbound: Inbound,
        config: GatewayConfig,
        variants: dict[str, VariantClient],
    ) -> Prepared:
        """Return the request with the variant that its unit was given first, exposed to it.

        Args:
            prepared: A request of an adaptive experiment, with what the split of now gives.
            inbound: The request's ids.
            config: The configuration in force.
            variants: Clients by variant; their weights are noted.

        Raises:
            EventsUnavailable: If durability is `strict` and the store cannot say.
        """
        decision = await self._settled(prepared.decision, inbound, config, variants)
        jobs = tuple(replace(job, decision=decision) for job in prepared.jobs)
        return replace(prepared, decision=decision, jobs=jobs)

    async def _settled(
        self,
        decision: Decision,
        inbound: Inbound,
        config: GatewayConfig,
        variants: dict[str, VariantClient],
    ) -> Decision:
        variant = variants[decision.variant]
        if variant.identity is None:
            await variant.refresh()
        exposure = _exposure(decision, inbound, config, variant)
        key = (exposure.experiment, exposure.version, exposure.unit)
        kept = self._known.get(key)
        if kept is None:
            kept = await self._events.enrol(exposure)
        else:
            # Nobody waits for it; it is for a store that was put back from an older copy, which
            # gets what it had: the configuration, too, as probabilities belong to one.
            self._events.record(replace(exposure, **kept._asdict()))
        if kept is None:
            self._count(exposure, "unknown")
            return replace(decision, exposed=True)
        self._remember(key, kept)
        if kept.variant not in config.experiments[exposure.experiment].allocation:
            # It was taken out of the experiment. Written down as what it is, a second variant.
            self._events.record(exposure)
            self._count(exposure, "removed")
            return replace(decision, exposed=True)
        self._count(exposure, "kept" if kept.variant != decision.variant else "assigned")
        assignment = Assignment(kept.variant, kept.probability, kept.bucket)
        return replace(decision, variant=kept.variant, assignment=assignment, exposed=True)

    def _remember(self, key: _Key, kept: Kept) -> None:
        self._known[key] = kept
        self._known.move_to_end(key)
        if len(self._known) > self._max_known:
            self._known.popitem(last=False)

    def _count(self, exposure: Exposure, result: str) -> None:
        self._metrics.sticky.labels(exposure.experiment, result).inc()


def _exposure(
    decision: Decision,
    inbound: Inbound,
    config: GatewayConfig,
    variant: VariantClient,
) -> Exposure:
    assert decision.experiment is not None  # noqa: S101 (sticky means all four are set)
    assert decision.version is not None  # noqa: S101
    assert decision.unit is not None  # noqa: S101
    assert decision.assignment is not None  # noqa: S101
    identity = variant.identity
    return Exposure(
        experiment=decision.experiment,
        version=decision.version,
        unit=decision.unit,
        variant=decision.variant,
        probability=decision.assignment.probability,
        bucket=decision.assignment.bucket,
        exposed_at=time.time(),
        inference_id=inbound.inference_id,
        served_model=decision.served_model,
        tenant=inbound.caller.tenant,
        config_hash=config.config_hash,
        model_sha256=identity.model_sha256 if identity else "",
        # Which answer there is in the cache depends on the variant that is asked for here.
        cached=False,
    )
