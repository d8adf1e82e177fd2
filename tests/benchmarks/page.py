"""The report as Markdown."""

from collections.abc import Iterable, Mapping
from typing import Any

from tests.benchmarks.targets import TARGETS

_GOOD, _BAD = "met", "**missed**"


def render(report: Mapping[str, Any], *, plots: Iterable[str] = ()) -> str:
    """Return the whole page: ratios against their targets, then every scenario."""
    parts = ["# Benchmark results\n", render_results(report)]
    parts += [f"![{name}]({name})\n" for name in plots]
    parts += [render_scenario(name, entry) for name, entry in report["scenarios"].items()]
    return "\n".join(parts)


def render_results(report: Mapping[str, Any]) -> str:
    """Return what a reader wants first: the ratios, on what, and where a peer is ahead."""
    parts = [_where(report["machine"], report["versions"]), _when(report["scenarios"])]
    parts.append(_ratios(report["spread"]))
    missing = sorted(set(TARGETS) - set(report["ratios"]))
    if missing:
        parts.append(f"Not measured: {', '.join(f'`{name}`' for name in missing)}.\n")
    behind = _behind(report["spread"])
    parts.append(f"Where a peer is ahead: {'; '.join(behind) or 'in none of these'}.\n")
    return "\n".join(parts)


def render_scenario(name: str, entry: Mapping[str, Any]) -> str:
    """Return one scenario: its ratios, its absolute figures, how it was measured."""
    lines = [
        f"## {name}\n",
        f"{entry['measured_at']}, {entry['seconds']:.0f} s, commit {_commit(entry['versions'])}, "
        f"load {entry['load_before'][0]:g} before and {entry['load_after'][0]:g} after.\n",
    ]
    lines += [f"- {key}: {value}" for key, value in entry["notes"].items()]
    if entry["notes"]:
        lines.append("")
    if entry["ratios"]:
        lines.append(_ratios(entry["ratios"]))
    if entry["absolutes"]:
        lines += ["| figure | median | least | most | |", "| --- | ---: | ---: | ---: | --- |"]
        lines += [_absolute(key, value) for key, value in entry["absolutes"].items()]
        lines.append("")
    return "\n".join(lines)


def _where(hardware: Mapping[str, Any], versions: Mapping[str, Any]) -> str:
    lines = [
        f"{hardware['cpu']}, {hardware['usable_cpus']} CPUs, {hardware['memory_gib']:g} GiB, "
        f"Linux {hardware['kernel']}. Python {versions['python']}, Ray {versions['ray']}, "
        f"llama-cpp-python {versions['llama-cpp-python']}.",
    ]
    if versions["llama_cpp_system_info"]:
        lines.append(f"llama.cpp: {versions['llama_cpp_system_info']}")
    return "\n\n".join(lines) + "\n"


def _when(scenarios: Mapping[str, Any]) -> str:
    days = sorted({entry["measured_at"][:10] for entry in scenarios.values()})
    commits = sorted({_commit(entry["versions"]) for entry in scenarios.values()})
    rounds = f"Measured {' and '.join(days)} at commit {', '.join(commits)}"
    return rounds + (".\n" if len(commits) == 1 else ": not all of it at one commit.\n")


def _commit(versions: Mapping[str, Any]) -> str:
    return (versions["commit"] or "unknown")[:12] + (" with changes" if versions["dirty"] else "")


def _ratios(ratios: Mapping[str, Any]) -> str:
    lines = [
        "| ratio (ours / theirs) | median | least | most | rounds | target | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name in sorted(ratios, key=_order):
        value, target = ratios[name], TARGETS.get(name)
        verdict = "" if target is None else _GOOD if target.is_met(value["median"]) else _BAD
        lines.append(
            f"| `{name}` | {value['median']:g} | {value['min']:g} | {value['max']:g} "
            f"| {value['n']} | {target.text if target else ''} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def _order(name: str) -> tuple[int, str]:
    """Sort ratios with a target first, as they are declared."""
    names = list(TARGETS)
    return (names.index(name), "") if name in TARGETS else (len(names), name)


def _absolute(name: str, value: Mapping[str, Any]) -> str:
    cells = " | ".join(f"{value[key]:g}" for key in ("median", "min", "max"))
    return f"| {name} | {cells} | {value['unit']} |"


def _behind(ratios: Mapping[str, Any]) -> list[str]:
    """Return the ratios with a target in which the peer's value is the better one."""
    found = []
    for name, target in TARGETS.items():
        if name not in ratios or name.endswith("_vs_two_hop"):
            continue  # the bare application is a floor that nothing gets below, not a peer
        value = ratios[name]["median"]
        if value < 1 if target.better == "higher" else value > 1:
            found.append(f"`{name}` ({value:g})")
    return found
