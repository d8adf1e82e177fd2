"""The last configuration in force, for a gateway that has to start with a bad one."""

import logging
from pathlib import Path

import orjson

from experiments.whole_file import write_whole

logger = logging.getLogger(__name__)


class LastGoodConfig:
    """A file under CARRIL_HOME.

    Args:
        home: CARRIL_HOME.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / "run" / "gateway-config.json"

    def save(self, raw: object) -> None:
        """Remember a configuration; failing to is logged and otherwise without consequence."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, orjson.dumps(raw), mode=0o600)
        except (OSError, TypeError):
            logger.exception("configuration not remembered")

    def load(self) -> object:
        """Return what was remembered.

        Raises:
            OSError: If there is nothing.
            ValueError: If it is damaged.
        """
        return orjson.loads(self._path.read_bytes())
