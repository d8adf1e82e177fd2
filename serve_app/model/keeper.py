"""Keeps the wanted model in the slot: loads, exchanges, unloads while nobody asks, wakes again."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from serve_app.config import ModelConfig, content_hash, parse_model_config
from serve_app.errors import ConfigError, ModelNotReady, ModelWaking, RequestError
from serve_app.model.calls import ModelIdentity, ModelState, ReplicaState
from serve_app.model.loader import load_model
from serve_app.model.slot import LoadedModel, ModelSlot
from serve_app.telemetry.metrics import ModelMetrics

logger = logging.getLogger(__name__)

_RETRY_S = 15.0
"""Pause before a failed load is tried again: the file may be put right without a deploy."""
_LOOK_S = 1.0
"""Shortest pause between looks at whether a model is idle, unless it may sleep sooner."""


class ModelKeeper:
    """Takes configurations and sees to it that their model serves.

    Nothing here raises because of a configuration: one that cannot be served leaves the old model
    in place and is reported by `state` and in the metrics.

    Args:
        app: Serve application, for messages.
        replica: Id of this replica.
        metrics: Where loads, failures and sleep are counted.
    """

    def __init__(self, app: str, replica: str, metrics: ModelMetrics) -> None:
        self.slot = ModelSlot()
        self.config: ModelConfig | None = None
        """The newest valid configuration."""
        self._app = app
        self._replica = replica
        self._metrics = metrics
        self._wanted_hash = ""
        self._refusal: str | None = None
        """Why the newest configuration was not taken."""
        self._error: str | None = None
        """Why the newest one that was taken does not serve."""
        self._asleep: ModelIdentity | None = None
        """The model that was unloaded last for want of requests; sleeps while the slot is empty."""
        self._asleep_load_hash = ""
        self._used_at_s = time.monotonic()
        self._loading: asyncio.Task[None] | None = None
        self._dozing: asyncio.Task[None] | None = None

    @property
    def identity(self) -> ModelIdentity | None:
        """What serves, or would after waking."""
        current = self.slot.current
        return current.identity if current is not None else self._asleep

    async def want(self, raw: object) -> None:
        """Take a new configuration; load it beside the old one if it names another model.

        The first load is awaited, so that a new replica takes no traffic before it can answer.
        """
        try:
            config = parse_model_config(raw, app=self._app)
        except ConfigError as error:
            self._metrics.config_refused.inc()
            self._refusal = str(error)
            self._wanted_hash = "invalid"
            logger.error("configuration refused", extra={"app": self._app, "reason": str(error)})
            return
        if self._loading is not None:
            self._loading.cancel()
            self._loading = None
        self.config = config
        self._wanted_hash = content_hash(config)[:12]
        self._refusal = self._error = None
        self._watch_idleness(config)
        current, known = self.slot.current, self.identity
        load_hash = current.load_hash if current is not None else self._asleep_load_hash
        if known is not None and load_hash == config.load_hash:
            # The same weights, to go by the new configuration.
            renamed = replace(known, config_hash=self._wanted_hash)
            if current is not None:
                current.identity = renamed
            else:
                self._asleep = renamed
            return
        self._loading = asyncio.create_task(self._load(config))
        if known is None:
            await asyncio.wait([self._loading], timeout=config.load_timeout_s + _LOOK_S)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[LoadedModel]:
        """Borrow the model, waking it if it sleeps.

        Raises:
            ModelNotReady: If nothing is loaded, or could be.
            ModelWaking: If it sleeps and is not back in time.
        """
        await self._wake()
        with self.slot.use() as model:
            try:
                yield model
            finally:
                self._used_at_s = time.monotonic()

    def state(self) -> ModelState:
        """Describe the replica for `/readyz`."""
        return ModelState(
            replica=self._replica,
            state=self._state(),
            identity=self.identity,
            config_hash=self._wanted_hash,
            error=self._refusal or self._error,
        )

    def _state(self) -> ReplicaState:
        if self.slot.current is not None:
            return "ready"
        if self._refusal or self._error:
            return "failed"
        if self._asleep is None:
            return "loading"
        return "waking" if self._is_loading else "idle"

    @property
    def _is_loading(self) -> bool:
        return self._loading is not None and not self._loading.done()

    async def _wake(self) -> None:
        config = self.config
        if self._asleep is None or config is None:
            return  # a slot that was never filled says so itself
        if self._state() == "ready":
            return
        started_s = time.monotonic()
        timeout_s = config.idle.wake_timeout_s
        while self._state() != "ready":
            left_s = started_s + timeout_s - time.monotonic()
            if self._error is not None:
                raise ModelNotReady("the model could not be loaded again", None, _RETRY_S)
            if left_s <= 0:
                raise ModelWaking(
                    f"the model was unloaded while nobody asked and is not back after "
                    f"{timeout_s:g} s; it is still being loaded, try again",
                    None,
                    max(1.0, timeout_s / 2),
                )
            if self._loading is None or self._loading.done():
                self._loading = asyncio.create_task(self._load(self.config or config))
            # Until then, or until another configuration has taken its place.
            await asyncio.wait([self._loading], timeout=left_s)
        self._metrics.wake_s.observe(time.monotonic() - started_s)

    async def _load(self, config: ModelConfig) -> None:
        """Load, swap and drain; after a failure try again until another configuration comes."""
        while True:
            try:
                model = await self._load_in_time(config)
                break
            except (ConfigError, RequestError) as error:
                self._error = str(error)
            except Exception as error:  # a native loader may raise anything; the old model serves
                self._error = f"loading failed: {error}"
                logger.exception("loading failed", extra={"app": self._app})
            self._report_failure()
            if self.slot.current is None:
                # Let `want` return: the replica comes up, says why it is not ready, and keeps
                # trying.
                self._loading = asyncio.create_task(self._load_later(config))
                return
            await asyncio.sleep(_RETRY_S)
        self._error = None
        self._used_at_s = time.monotonic()
        self._metrics.swaps.inc()
        # Not awaited by cancellation: a newer configuration must not stop the draining half-way.
        await asyncio.shield(
            asyncio.ensure_future(self.slot.swap(model, drain_timeout_s=config.drain_timeout_s))
        )

    async def _load_later(self, config: ModelConfig) -> None:
        await asyncio.sleep(_RETRY_S)
        await self._load(config)

    async def _load_in_time(self, config: ModelConfig) -> LoadedModel:
        """Load; report a failure once it takes too long, but take what still comes.

        The loading thread cannot be stopped. Starting a second one beside it would take the memory
        twice, so there is only ever one.
        """
        loading = asyncio.ensure_future(
            load_model(config, replica=self._replica, beside=self.slot.current)
        )
        try:
            done, _ = await asyncio.wait([loading], timeout=config.load_timeout_s)
            if not done:
                self._error = (
                    f"not loaded after {config.load_timeout_s:g} s (load_timeout_s); still trying"
                )
                self._report_failure()
            return await loading
        finally:
            loading.cancel()

    def _report_failure(self) -> None:
        self._metrics.load_failures.inc()
        logger.error("model not loaded", extra={"app": self._app, "reason": self._error})

    def _watch_idleness(self, config: ModelConfig) -> None:
        if self._dozing is not None:
            self._dozing.cancel()
            self._dozing = None
        if config.idle.unload_after_s is not None:
            self._dozing = asyncio.create_task(
                self._unload_when_idle(config.idle.unload_after_s, config.drain_timeout_s)
            )

    async def _unload_when_idle(self, idle_s: float, drain_timeout_s: float) -> None:
        while True:
            current = self.slot.current
            left_s = self._used_at_s + idle_s - time.monotonic()
            free = current is not None and current.users == 0 and not self._is_loading
            if current is not None and free and left_s <= 0:
                self._asleep, self._asleep_load_hash = current.identity, current.load_hash
                self._metrics.unloads.inc()
                logger.info("model unloaded", extra={"app": self._app, "idle_s": idle_s})
                # Shielded: a configuration that comes meanwhile must not leave the engine open.
                await asyncio.shield(
                    asyncio.ensure_future(self.slot.swap(None, drain_timeout_s=drain_timeout_s))
                )
            await asyncio.sleep(max(left_s, min(idle_s, _LOOK_S)))
