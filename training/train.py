"""Entry point: `python -m training.train --config training/configs/okla-v1.yaml --out DIR`."""

import typer

from training.cli import train_command


def main() -> None:
    """Train a model from the command line."""
    typer.run(train_command)


if __name__ == "__main__":
    main()
