"""How fast one replica is, by how much it does at once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cluster.errors import CommandError, ExitCode

_FILE_FORMS = (
    'a JSON object {"decode_tokens_per_s": {"1": 16.4, "8": 28}, "prefill_tokens_per_s": 95}, or '
    "the JSON lines of llama-batched-bench"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Measured speeds of one replica.

    Between measured points the total is interpolated; nothing is assumed beyond the last one.
    """

    decode: tuple[tuple[int, float], ...]
    """(active sequences, tokens/s of all of them together), by rising number, from 1 on."""
    prefill_tokens_per_s: float | None = None
    """None takes no time for prompts."""

    @classmethod
    def of(cls, decode: Mapping[int, float], prefill_tokens_per_s: float | None = None) -> Self:
        """Check a table.

        Raises:
            CommandError: If it is empty, does not start at 1, or has a speed of 0 or less.
        """
        points = tuple(sorted(decode.items()))
        if not points or points[0][0] != 1:
            raise _bad(f"the speeds have no entry for 1 active sequence (they have {points})")
        wrong = [point for point in points if not 0 < point[1] < float("inf")]
        if wrong:
            raise _bad(f"{wrong[0][1]!r} tokens/s for {wrong[0][0]} sequences is no speed")
        if prefill_tokens_per_s is not None and not 0 < prefill_tokens_per_s < float("inf"):
            raise _bad(f"{prefill_tokens_per_s!r} prompt tokens/s is no speed")
        return cls(decode=points, prefill_tokens_per_s=prefill_tokens_per_s)

    @classmethod
    def parse(cls, text: str, prefill_tokens_per_s: float | None = None) -> Self:
        """Read `1=16.4,4=33,8=28`, or a file.

        Args:
            text: Table, or path of a file with one.
            prefill_tokens_per_s: Goes before what a file says.

        Raises:
            CommandError: If it is neither.
        """
        path = Path(text)
        if path.is_file():
            decode, prefill = _read(path)
            return cls.of(decode, prefill_tokens_per_s or prefill)
        try:
            parts = [part.split("=") for part in text.split(",")]
            decode = {int(rows): float(speed) for rows, speed in parts}
        except ValueError:
            raise _bad(f"{text!r} is no file and no table of speeds") from None
        return cls.of(decode, prefill_tokens_per_s)

    def totals(self, slots: int) -> NDArray[np.float64]:
        """Return tokens/s of all sequences by their number, 0..slots.

        Raises:
            CommandError: If more slots are wanted than were measured.
        """
        rows, speeds = zip(*self.decode, strict=True)
        if slots > rows[-1]:
            raise _bad(f"speeds are known up to {rows[-1]} active sequences, not for {slots} slots")
        totals: NDArray[np.float64] = np.interp(np.arange(slots + 1), rows, speeds)
        totals[0] = 0.0
        return totals


def _read(path: Path) -> tuple[dict[int, float], float | None]:
    try:
        text = path.read_text(encoding="utf-8")
        if text.lstrip().startswith("{") and "speed_tg" in text:
            return _batched_bench([json.loads(line) for line in text.splitlines() if line.strip()])
        raw = json.loads(text)
        decode = {int(rows): float(speed) for rows, speed in raw["decode_tokens_per_s"].items()}
        prefill = raw.get("prefill_tokens_per_s")
        return decode, None if prefill is None else float(prefill)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _bad(f"{path} holds no speeds: {error}") from error


def _batched_bench(lines: list[dict[str, Any]]) -> tuple[dict[int, float], float | None]:
    """Read llama-batched-bench: `pl` sequences, `speed_tg` tokens/s, `speed_pp` of the prompts."""
    decode = {int(line["pl"]): float(line["speed_tg"]) for line in lines}
    alone = [float(line["speed_pp"]) for line in lines if int(line["pl"]) == 1]
    return decode, alone[0] if alone else None


def _bad(message: str) -> CommandError:
    return CommandError(message, f"give {_FILE_FORMS}, or 1=16.4,4=33", ExitCode.USAGE)
