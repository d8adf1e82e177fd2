"""Serve a promoted model: edit the deployable config, deploy it, keep it only if it runs."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from cluster.config_edit import find_target, serve_file
from cluster.errors import CommandError
from experiments.registry.profile import ServedFiles
from experiments.registry.records import Alias, Deployed, ModelVersion
from experiments.whole_file import write_whole
from serve_app.config import load_yaml
from serve_app.errors import ConfigError

logger = logging.getLogger(__name__)

Deploy = Callable[[Path], None]
"""Deploys a config file; returns once every replica runs it."""


class ConfigDeployment:
    """What `carril models promote --deploy CONFIG` does; see `training.registry.Deployment`.

    The champion takes the place of the experiment's control variant, a challenger that of its
    treatment. In both cases all traffic goes to the control; raise the challenger's share with an
    edit and `carril deploy`. The file changes only after every replica runs the new content.

    Args:
        config: The deployable config.
        deploy: How it is deployed.
        variant: Variant to change, where the config leaves a choice.
    """

    def __init__(self, config: Path, deploy: Deploy, *, variant: str | None = None) -> None:
        self._config = config.absolute()
        self._deploy = deploy
        self._variant = variant
        self._before: bytes | None = None

    def apply(self, version: ModelVersion, files: ServedFiles, alias: Alias) -> Deployed:
        """Serve a version; return the config and the variant that serve it.

        Raises:
            ConfigError: If the config does not say where it belongs.
            CommandError: If the deployment failed; file and traffic are as before.
        """
        before = self._read()
        text = before.decode()
        target = find_target(
            load_yaml(text), control=alias is Alias.CHAMPION, variant=self._variant
        )
        edited = serve_file(text, target, files=files, sha256=version.sha256)
        self._roll_out(edited.encode(), before)
        self._before = before
        return Deployed(config=self._config.name, variant=target.variant)

    def undo(self) -> None:
        """Serve the config from before `apply` again."""
        if self._before is not None:
            before, self._before = self._before, None
            self._roll_out(before, self._read())

    def _roll_out(self, content: bytes, before: bytes) -> None:
        # Beside the config, as paths in it may be relative, and with its ending.
        trial = self._config.with_name(f".{self._config.stem}.promoting{self._config.suffix}")
        working_dir = Path.cwd()
        try:
            write_whole(trial, content)
            self._deploy(trial)
        except OSError as error:
            raise ConfigError(f"{trial} cannot be written: {error}") from error
        except (CommandError, KeyboardInterrupt) as error:
            self._deploy_again(error)
            raise
        finally:
            os.chdir(working_dir)  # a deployment changes to where the server was started
            trial.unlink(missing_ok=True)
        if self._read() != before:
            raise CommandError(
                f"{self._config} was edited while it was being deployed; the edit was kept, the "
                "promoted model is served but not in the file",
                f"compare, then: carril deploy {self._config.name}",
            )
        write_whole(self._config, content)

    def _deploy_again(self, error: BaseException) -> None:
        """Ask for the old config, so that nobody goes on trying to run the refused one."""
        try:
            self._deploy(self._config)
        except (CommandError, ConfigError) as second:
            logger.warning("after %r the old config was not deployed again: %s", error, second)

    def _read(self) -> bytes:
        try:
            return self._config.read_bytes()
        except OSError as error:
            raise ConfigError(f"{self._config} cannot be read: {error.strerror}") from error
