"""What `carril models` prints."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from cluster.cli.console import note, out, print_json
from cluster.served_models import ServedCheck
from experiments.registry import LedgerEntry, ModelVersion, Registry, Standing
from experiments.registry.records import utc_text
from experiments.registry.views import version_summary
from training.registry.verification import Finding


def show_versions(
    versions: Sequence[ModelVersion], standings: Mapping[str, Standing], *, as_json: bool
) -> None:
    """Print one row per version."""
    rows = [version_summary(version, standings[version.name]) for version in versions]
    if as_json:
        print_json(rows)
        return
    if not rows:
        note("nothing is registered; add a model with: carril models register MANIFEST")
        return
    table = Table()
    for column in ("model", "version", "state", "aliases", "gate", "sha256", "registered"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["name"],
            row["version"],
            f"{row['state']} ({row['lifecycle']})",
            ", ".join(row["aliases"]),
            row["gate"] or "",
            row["sha256"][:12],
            row["registered_at"],
        )
    out.print(table)


def show_version(registry: Registry, version: ModelVersion, *, as_json: bool) -> None:
    """Print everything about one version."""
    standing = registry.standings()[version.name]
    history = [
        entry
        for entry in registry.entries()
        if entry.model == version.name and entry.target.version == version.version
    ]
    row = version_summary(version, standing)
    if as_json:
        print_json(
            {
                **version.model_dump(mode="json"),
                **{key: row[key] for key in ("state", "lifecycle", "aliases", "gate")},
                "path": str(registry.blob(version.sha256)),
                "history": [entry.model_dump(mode="json") for entry in history],
            }
        )
        return
    fields: dict[str, object] = {
        "model": version.label,
        "description": version.description,
        "state": f"{row['state']} ({row['lifecycle']})",
        "aliases": ", ".join(row["aliases"]),
        "gate": row["gate"],
        "sha256": version.sha256,
        "bytes": version.size_bytes,
        "file": registry.blob(version.sha256),
        "dataset sha256": version.dataset_sha256,
        "config sha256": version.config_sha256,
        "code commit": version.code_commit,
        "registered": f"{row['registered_at']} by {version.registered_by}",
        **version.lineage,
        **version.metrics,
        **version.parameters,
    }
    width = max(map(len, fields))
    for key, value in fields.items():
        _line(f"{key:{width}}  {'' if value is None else value}")
    _line("")
    show_log(history, as_json=False)


def show_log(entries: Sequence[LedgerEntry], *, as_json: bool) -> None:
    """Print ledger entries, oldest first."""
    if as_json:
        print_json([entry.model_dump(mode="json") for entry in entries])
        return
    for entry in entries:
        what = entry.kind.value + (f" {entry.alias.value}" if entry.alias else "")
        before = f" (before: {entry.source.version})" if entry.source else ""
        gate = (
            f"  gate {entry.gate.verdict.value} {entry.gate.report_sha256[:12]}"
            if entry.gate
            else ""
        )
        where = f"  served by {entry.deployed.variant}" if entry.deployed else ""
        reason = f"  {entry.reason}" if entry.reason else ""
        _line(
            f"{entry.seq:>4}  {utc_text(entry.at)}  {entry.actor}  {what}  "
            f"{entry.model}@{entry.target.version}{before}{gate}{where}{reason}"
        )


def show_aliases(standings: Mapping[str, Standing], *, as_json: bool) -> None:
    """Print where the aliases of each model point."""
    if as_json:
        print_json(
            {
                name: {alias.value: ref.version for alias, ref in standing.aliases.items()}
                for name, standing in standings.items()
            }
        )
        return
    for name, standing in sorted(standings.items()):
        for alias, ref in standing.aliases.items():
            _line(f"{name}  {alias.value}  {ref.version}  {ref.sha256}")


def show_verification(
    findings: Sequence[Finding],
    checks: Sequence[ServedCheck],
    digests: Mapping[str, Sequence[str]],
    *,
    as_json: bool,
) -> None:
    """Print what was checked, and what does not hold.

    Args:
        findings: About the registry's own files.
        checks: About what is served; empty if that was not asked for.
        digests: By variant, the hashes that its replicas serve.
        as_json: Print JSON.
    """
    if as_json:
        print_json(
            {
                "ok": all(f.ok for f in findings) and all(check.ok for check in checks),
                "findings": [{"what": f.what, "ok": f.ok, "detail": f.detail} for f in findings],
                "served": [
                    {
                        "model": check.model,
                        "alias": check.alias.value,
                        "version": check.version,
                        "sha256": check.sha256,
                        "ok": check.ok,
                        "expected_at": check.expected_at,
                        "served_by": list(check.served_by),
                    }
                    for check in checks
                ],
                "variants": digests,
            }
        )
        return
    for finding in findings:
        _line(f"{_mark(finding.ok)}  {finding.what}: {finding.detail}")
    for check in checks:
        where = ", ".join(check.served_by) or "no variant"
        expected = f", deployed to {check.expected_at}" if check.expected_at else ""
        _line(
            f"{_mark(check.ok)}  served: {check.alias.value} {check.model}@{check.version} "
            f"({check.sha256[:12]}) is served by {where}{expected}"
        )
    if not all(check.ok for check in checks):
        for variant, found in digests.items():
            _line(f"      variant {variant} serves {', '.join(found) or 'nothing'}")


def _mark(ok: bool) -> str:
    return "ok  " if ok else "FAIL"


def _line(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
