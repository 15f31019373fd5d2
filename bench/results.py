"""The samples of a run, and their medians."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from scenarios import Row


@dataclass
class Samples:
    """The samples of one peer in one row."""

    values: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    cut: Counter = field(default_factory=Counter)  # in a flood: how often the sender or the receiver was disconnected

    @property
    def runs(self) -> int:
        return len(self.values) + len(self.failures)

    @property
    def failed(self) -> bool:
        """Returns whether too few runs succeeded for a meaningful median."""
        return len(self.failures) * 2 >= self.runs

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def reasons(self) -> str:
        """Returns all failures, most frequent first."""
        return "; ".join(f"{why} ({n} of {self.runs})" for why, n in Counter(self.failures).most_common())


class Results:
    """All samples, by row and peer."""

    def __init__(self) -> None:
        self._samples: defaultdict[tuple[str, str], Samples] = defaultdict(Samples)

    def add(self, row: Row, peer: str, figures: dict[str, str]) -> str:
        """Stores a row's value from the load generator's figures. Returns a text that describes it."""
        samples = self._samples[row.name, peer]
        if row.key not in figures:
            samples.failures.append("no figure")
            return f"{row.name}: no figure"
        if row.unit != "lost":
            samples.values.append(float(figures[row.key]))
            return f"{row.name} {figures[row.key]}"
        sent, received = int(figures["sent"]), int(figures["received"])
        # A sender that is disconnected in the middle of a write may have sent more than it knows.
        lost = max(0, sent - received)
        samples.values.append(100 * lost / max(1, sent))
        cut = [who for who in ("receiver", "sender") if figures.get(f"{who}_disconnected") == "true"]
        samples.cut.update(cut)
        return f"lost {lost} of {sent}" + "".join(f", {who} cut off" for who in cut)

    def fail(self, row: Row, peer: str, why: str) -> None:
        self._samples[row.name, peer].failures.append(why)

    def get(self, row: Row, peer: str) -> Samples | None:
        """Returns the samples, or None if it was not measured."""
        return self._samples.get((row.name, peer))

    def raw(self) -> dict[str, dict[str, dict]]:
        """Returns all samples, for a file."""
        out: dict[str, dict[str, dict]] = {}
        for (row, peer), samples in self._samples.items():
            out.setdefault(row, {})[peer] = {
                "values": samples.values,
                "failures": samples.failures,
                "cut": dict(samples.cut),
            }
        return out
