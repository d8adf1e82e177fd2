"""Entry point: `python -m training.lora --config FILE --out DIR`."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

_EXIT_FAILED, _EXIT_USAGE, _EXIT_INTERRUPTED = 1, 2, 130


class _StopFlag:
    """Set by the first SIGTERM or Ctrl-C; a second one does not wait for a checkpoint."""

    def __init__(self) -> None:
        self.is_set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.is_set:
            raise SystemExit(_EXIT_INTERRUPTED)
        self.is_set = True
        _say(f"{signal.Signals(number).name}: stopping after this step, with a checkpoint")


def command(
    config: Annotated[Path, typer.Option("--config", help="LoRA configuration (YAML).")],
    out: Annotated[
        Path, typer.Option("--out", help="Work folder; resumed where it has a checkpoint.")
    ],
) -> None:
    """Fine-tune a local Hugging Face base of the Llama family and export it to GGUF."""
    from training.errors import ConfigError, TrainingError

    stop = _StopFlag()
    try:
        from training.lora.base import open_base
        from training.lora.config import load_config

        loaded = load_config(config)
        # A typing error or another architecture is told before torch has loaded.
        open_base(loaded.base, template=loaded.chat_template, q4_k_m=loaded.q4_k_m)
        from training.lora.pipeline import LoraRun
        from training.lora.trainer import TrainingStopped

        try:
            manifest = LoraRun(loaded, out, report=_say).run(stop_asked=lambda: stop.is_set)
        except TrainingStopped as stopped:
            _say(f"{stopped}; the same command goes on from there")
            raise typer.Exit(_EXIT_INTERRUPTED) from stopped
    except ConfigError as err:
        raise _failed(str(err), _EXIT_USAGE) from err
    except (TrainingError, OSError) as err:
        raise _failed(str(err), _EXIT_FAILED) from err
    except ModuleNotFoundError as err:
        needed = f"LoRA training needs {err.name!r}: pip install 'carril[training,cpu]'"
        raise _failed(needed, _EXIT_FAILED) from err
    typer.echo(f"{out / manifest.file}  {manifest.size_bytes:,} bytes  sha256 {manifest.sha256}")


def _say(line: str) -> None:
    typer.echo(line, err=True)
    sys.stderr.flush()


def _failed(message: str, code: int) -> typer.Exit:
    _say(f"error: {message}")
    return typer.Exit(code)


def main() -> None:
    """Run the command."""
    typer.run(command)


if __name__ == "__main__":
    main()
