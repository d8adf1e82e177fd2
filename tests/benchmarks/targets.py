"""What each published ratio means, and the value that carril is held to.

`python -m tests.benchmarks.targets` prints the table of the README.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Target:
    """One ratio: ours divided by the peer's, always in the unit that `meaning` names."""

    meaning: str
    bound: float
    better: Literal["higher", "lower"]

    def is_met(self, value: float) -> bool:
        """Return whether a measured value reaches the target."""
        return value >= self.bound if self.better == "higher" else value <= self.bound

    @property
    def text(self) -> str:
        """The target as a person writes it."""
        return f"{'≥' if self.better == 'higher' else '≤'} {self.bound:g}"


def _at_least(bound: float, meaning: str) -> Target:
    return Target(meaning, bound, "higher")


def _at_most(bound: float, meaning: str) -> Target:
    return Target(meaning, bound, "lower")


TARGETS: Mapping[str, Target] = {
    "decode_vs_batched_bench_b1": _at_least(0.95, "tokens/s of one sequence"),
    "decode_vs_batched_bench_b4": _at_least(0.95, "tokens/s of 4 sequences together"),
    "decode_vs_batched_bench_b8": _at_least(0.95, "tokens/s of 8 sequences together"),
    "cold_c8_vs_llama_server": _at_least(
        1.9, "requests/min of the cold burst, 8 clients and 8 slots"
    ),
    "cold_c16_vs_llama_server": _at_least(
        4.0, "requests/min of the cold burst, 16 clients and 16 slots"
    ),
    "warm_c16_vs_llama_server": _at_least(1.1, "requests/min of the warm burst, 16 clients"),
    "cold_max_ttft_vs_llama_server": _at_most(
        0.333, "longest time to first token of the cold burst, the worse of 8 and 16 clients"
    ),
    "okla_json_vs_llama_server": _at_least(
        2.0, "requests/min of valid JSON answers, shipped model"
    ),
    "okla_json_1b_vs_llama_server": _at_least(3.0, "requests/min of valid JSON answers, 1B shape"),
    "max_itl_vs_llama_server": _at_most(
        0.25, "worst gap of running streams while a 2,000-token prompt arrives"
    ),
    "gateway_p50_vs_two_hop": _at_most(1.35, "median latency of the gateway, echo engine"),
    "gateway_p50_vs_litellm": _at_most(0.333, "median latency of the gateway, echo engine"),
    "gateway_rps_vs_litellm": _at_least(4.0, "requests/s of the gateway, echo engine"),
}
"""Ratios with a target. Others may be published beside them."""


def main() -> None:
    """Print the table."""
    sys.stdout.write("| ratio (ours / theirs) | target | of what |\n| --- | --- | --- |\n")
    for name, target in TARGETS.items():
        sys.stdout.write(f"| `{name}` | {target.text} | {target.meaning} |\n")


if __name__ == "__main__":
    main()
