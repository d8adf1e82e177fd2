"""`carril eval run|gate`: measure a model, and judge whether it may ship.

Modules that do the work are imported by the commands, so that `carril --help` is quick.
"""

import typer

from experiments.gate.cli import gate_command

eval_app = typer.Typer(
    name="eval",
    help="Measure models, and judge whether one may ship.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@eval_app.callback()
def _group() -> None:
    """Keep `run` a verb of its own even while it is the only one."""


eval_app.command("gate")(gate_command)
