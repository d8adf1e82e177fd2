"""The model slot: the loaded model of a replica, exchanged while requests run on the old one."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serve_app.engines.protocol import Engine
from serve_app.errors import ModelNotReady
from serve_app.model.calls import ModelIdentity
from serve_app.model.profile import Profile

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class LoadedModel:
    """An engine, what it is, and how many requests use it."""

    engine: Engine
    identity: ModelIdentity
    profile: Profile
    heartbeat_timeout_s: float
    load_hash: str = ""
    """Hash of the configuration that it was loaded by, as far as loading goes by it."""
    users: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()


class ModelSlot:
    """Holds the current model. All methods run on one event loop."""

    def __init__(self) -> None:
        self._current: LoadedModel | None = None
        self._retiring: set[LoadedModel] = set()

    @property
    def current(self) -> LoadedModel | None:
        """The model that new requests get."""
        return self._current

    @property
    def loaded(self) -> tuple[LoadedModel, ...]:
        """Every model in memory, those that only finish old requests included."""
        return (*([self._current] if self._current else []), *self._retiring)

    @contextmanager
    def use(self) -> Iterator[LoadedModel]:
        """Borrow the current model; it is not freed before it is given back.

        Raises:
            ModelNotReady: If nothing is loaded yet.
        """
        model = self._current
        if model is None:
            raise ModelNotReady("the model is still loading", None, 2.0)
        model.users += 1
        model.idle.clear()
        try:
            yield model
        finally:
            model.users -= 1
            if model.users == 0:
                model.idle.set()

    async def swap(self, new: LoadedModel | None, *, drain_timeout_s: float) -> None:
        """Switch to another model, let the old one finish its requests, and free it.

        Args:
            new: The model from now on, or None to end.
            drain_timeout_s: Seconds that old requests may take; what still runs then fails.
        """
        old, self._current = self._current, new
        if old is None:
            return
        self._retiring.add(old)
        try:
            await asyncio.wait_for(old.idle.wait(), drain_timeout_s)
        except TimeoutError:
            logger.warning("draining timed out", extra={"requests": old.users})
        finally:
            self._retiring.discard(old)
            await old.engine.close()
