"""All experiments at a glance: what is declared and what the log has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.analysis.declaration import ExperimentDeclaration
from experiments.analysis.history import experiments_in, groups, phases
from experiments.analysis.log import open_log
from experiments.analysis.report.document import moment


def overview(
    path: Path | str, declared: Mapping[str, ExperimentDeclaration]
) -> list[dict[str, Any]]:
    """Return one row per experiment and version, by name.

    Args:
        path: The event file; absent before the first event, then only declarations are listed. A
            text is the address of the central database.
        declared: Declared experiments.

    Raises:
        UnreadableLog: If the file cannot be read.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {
        (name, one.version): {
            "experiment": name,
            "version": one.version,
            "declared": True,
            "control": one.control,
            "split": {v: float(p) / 100 for v, p in sorted(one.allocation.items())},
            "units": {},
            "first_exposure_at": None,
            "last_exposure_at": None,
        }
        for name, one in declared.items()
    }
    if isinstance(path, str) or path.is_file():
        with open_log(path) as log:
            for name, version in experiments_in(log):
                found = phases(groups(log, name, version))
                row = rows.setdefault(
                    (name, version),
                    {
                        "experiment": name,
                        "version": version,
                        "declared": False,
                        "control": declared[name].control if name in declared else None,
                        "split": dict(sorted(found[-1].shares.items())),
                    },
                )
                units: dict[str, int] = {}
                for phase in found:
                    for variant, n in phase.units.items():
                        units[variant] = units.get(variant, 0) + n
                row["units"] = dict(sorted(units.items()))
                row["first_exposure_at"] = moment(min(phase.first_at for phase in found))
                row["last_exposure_at"] = moment(max(phase.last_at for phase in found))
    return [rows[key] for key in sorted(rows)]
