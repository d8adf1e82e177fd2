"""Entry point: `python -m training.data.generate --out DIR`."""

import typer

from training.cli import generate_command


def main() -> None:
    """Generate the dataset from the command line."""
    typer.run(generate_command)


if __name__ == "__main__":
    main()
