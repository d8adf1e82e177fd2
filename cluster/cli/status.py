"""`carril status`: what runs, readable also when nothing does."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from cluster.cli.console import fail, note, out, print_json
from cluster.connection import resolve
from cluster.errors import CommandError, ExitCode, infrastructure
from cluster.process_tree import describe
from cluster.rollout import fetch_readyz
from cluster.serve_api import ServeApi
from cluster.status_report import status_document

_GOOD = {"RUNNING", "HEALTHY", "ready"}


def run(*, as_json: bool, address: str | None, url: str | None) -> None:
    """Print what runs.

    Raises:
        CommandError: If Ray refuses the token.
    """
    connection = resolve(dashboard_url=address, http_url=url)
    details = None
    problem: CommandError | None = None
    try:
        with ServeApi(connection.dashboard_url, token=connection.token, timeout_s=15) as api:
            details = api.details()
    except CommandError as error:
        if error.code is ExitCode.AUTH:
            raise
        problem = error
    document = status_document(
        details=details,
        readyz=fetch_readyz(connection.http_url) if details is not None else None,
        processes=describe(connection.record.members()) if connection.record else [],
        http_url=connection.http_url,
        dashboard_url=connection.dashboard_url,
    )
    if as_json:
        print_json(document)
    elif problem is None:
        _show(document)
    elif connection.record is None:
        note("nothing runs; start with: carril up")
    else:
        raise infrastructure(
            f"a cluster was started at {connection.record.started_at:%Y-%m-%d %H:%M} UTC "
            "but does not answer",
            "clean up with: carril down",
        )


def _show(document: dict[str, Any]) -> None:
    config = f", config {document['config']}" if document["config"] else ""
    out.print(f"{document['http_url']}  {_coloured(document['status'])}{config}", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("application", "deployment", "status", "replicas", "pids"):
        table.add_column(column, overflow="fold")
    for app in document["applications"]:
        table.add_row(escape(app["name"]), "", _coloured(app["status"]), "", "")
        for item in app["deployments"]:
            running = sum(replica["state"] == "RUNNING" for replica in item["replicas"])
            table.add_row(
                "",
                escape(item["name"]),
                _coloured(item["status"]),
                f"{running}/{item['wanted_replicas']}",
                " ".join(str(replica["pid"]) for replica in item["replicas"]),
            )
    if document["applications"]:
        out.print(table)
    for experiment in document["experiments"]:
        split = ", ".join(f"{name} {share:g} %" for name, share in experiment["allocation"].items())
        out.print(f"experiment {experiment['name']}: {split}", markup=False, highlight=False)
    for shadow in document["shadows"]:
        line = (
            f"shadow {shadow['name']}: {shadow['variant']} gets copies of {shadow['percent']:g} % "
            f"of what {shadow['of']} answers"
        )
        out.print(line, markup=False, highlight=False)
    for variant in document["variants"]:
        for replica in variant["replicas"]:
            sha = str(replica.get("model_sha256") or "")[:12] or "no file"
            line = f"variant {variant['name']} ({variant['app']}): {replica.get('state')}, {sha}"
            out.print(line, markup=False, highlight=False)
            if replica.get("error"):
                fail(f"{variant['app']}: {replica['error']}")
    for app in document["applications"]:
        if app["status"] not in _GOOD and app["message"]:
            fail(f"{app['name']}: {app['message']}")
    if document["processes"]:
        count, used = len(document["processes"]), document["memory_bytes"]
        out.print(f"memory: {used / 2**30:.2f} GiB in {count} processes", highlight=False)
        for item in document["processes"][:6]:
            out.print(
                f"  {item['memory_bytes'] / 2**20:6.0f} MiB  {item['name']} ({item['pid']})",
                markup=False,
                highlight=False,
            )


def _coloured(status: object) -> str:
    colour = "green" if status in _GOOD else "yellow"
    return f"[{colour}]{escape(str(status))}[/]"
