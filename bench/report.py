"""The tables, for the terminal and as a page of Markdown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from attacks import ALONE, BAR_MS, SECONDS, AttackResult, Figures
from pairs import Pairs
from peers import Peer
from results import Results, Samples
from scenarios import BASE, OURS, REFERENCE, Row, Scenario, absence

VALUE, FAILED, ABSENT = "value", "failed", "absent"


def number(value: float, unit: str) -> str:
    """Formats a figure with three significant digits: 10.2 M/s, 57.3 us, 1.42 s, 0.5 % lost."""
    if unit == "lost":
        # Only exactly nothing is "0 %": a few of a million must not be rounded away.
        return f"{value:.3g} % lost"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if unit == "/s" and abs(value) >= size:
            return f"{digits(value / size)} {letter}/s"
    return f"{digits(value)} {unit}"


def digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(samples: Samples, unit: str) -> str:
    """Formats smallest and largest sample: 9.98–10.4 M/s; nothing if there is only one."""
    if len(samples.values) < 2:
        return ""
    low, high = number(min(samples.values), unit), number(max(samples.values), unit)
    (low_number, _, low_unit), (_, __, high_unit) = low.partition(" "), high.partition(" ")
    return f"{low_number}–{high}" if low_unit == high_unit else f"{low}–{high}"


@dataclass(frozen=True)
class Cell:
    """The result of one peer in one row."""

    kind: str
    text: str
    ratio: float | None = None  # ratio to the reference, more than 1 is better
    note: str = ""  # a remark to be shown with it
    spread: str = ""


class Table:
    """The results of the scenarios that were run, by row and peer."""

    def __init__(self, results: Results, scenarios: tuple[Scenario, ...], peers: list[Peer]):
        self.peers = peers
        self.rows: list[tuple[Row, dict[str, Cell]]] = []
        for scenario in scenarios:
            for row in scenario.rows:
                cells = {peer.name: self._cell(results, scenario, row, peer) for peer in peers}
                self.rows.append((row, cells))

    @staticmethod
    def _cell(results: Results, scenario: Scenario, row: Row, peer: Peer) -> Cell:
        why = absence(scenario, row, peer.name)
        samples = results.get(row, peer.name)
        if why is not None or samples is None:
            return Cell(ABSENT, "–", note=why or "not measured")
        if samples.failed:
            return Cell(FAILED, "FAILED", note=samples.reasons())
        notes = [f"failed: {samples.reasons()}"] if samples.failures else []
        notes += [f"{who} cut off in {n} of {samples.runs}" for who, n in sorted(samples.cut.items())]
        text, between = number(samples.median, row.unit), spread(samples, row.unit)
        base = results.get(row, REFERENCE)
        ratio = None
        comparable = row.unit != "lost" and peer.name != REFERENCE
        if comparable and base and not base.failed and base.median > 0 and samples.median > 0:
            quotient = samples.median / base.median
            ratio = quotient if row.more_is_better else 1 / quotient
        return Cell(VALUE, text, ratio, "; ".join(notes), between)

    def text(self) -> str:
        """Formats the table for the terminal: median, ratio to the reference, spread; failures are listed below."""
        lines = [["", *(peer.title for peer in self.peers)]]
        notes = []
        for row, cells in self.rows:
            line = [row.name]
            for peer in self.peers:
                cell = cells[peer.name]
                parts = [cell.text]
                if cell.ratio is not None:
                    parts.append(f"x{digits(cell.ratio)}")
                if cell.spread:
                    parts.append(f"({cell.spread})")
                if cell.note and cell.kind != ABSENT:
                    notes.append(f"* {row.name}, {peer.title}: {cell.note}")
                    parts.append("*")
                line.append(" ".join(parts))
            lines.append(line)
        return "\n".join([_aligned(lines), *notes])

    def markdown(self) -> list[str]:
        """Returns the lines of a Markdown table, with the spread below each median."""
        lines = [
            "| | " + " | ".join(peer.title for peer in self.peers) + " |",
            "| --- |" + " ---: |" * len(self.peers),
        ]
        for row, cells in self.rows:
            lines.append(f"| `{row.name}` | " + " | ".join(_markdown(cells[p.name]) for p in self.peers) + " |")
        return lines


def _aligned(lines: list[list[str]]) -> str:
    """Aligns the lines of a table for the terminal."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(part.ljust(width) for part, width in zip(line, widths)).rstrip() for line in lines)


def _markdown(cell: Cell) -> str:
    if cell.kind == ABSENT:
        return cell.text
    text = f"**{cell.text}**" if cell.kind == FAILED else cell.text
    if cell.ratio is not None:
        text += f" **×{digits(cell.ratio)}**"
    small = [part for part in (cell.spread, cell.note) if part]
    return text + "".join(f"<br><sub>{part}</sub>" for part in small)


def pairs_text(results: list[Pairs]) -> str:
    """Formats medians of both builds, the quartiles of the ratios, and whether the upper one reaches its bar."""
    lines = [["", "ours", "base", "lower quartile", "median", "upper quartile", "bar", ""]]
    notes = []
    for pairs in results:
        quartiles = pairs.quartiles()
        if quartiles:
            medians = [number(statistics.median(values), pairs.row.unit) for values in (pairs.ours, pairs.base)]
            ratios = [f"{ratio:.3f}" for ratio in quartiles]
        else:
            medians, ratios = ["-"] * 2, ["-"] * 3
        lines.append([pairs.row.name, *medians, *ratios, f"{pairs.bar:.2f}", pairs.verdict])
        if pairs.failures:
            reasons = ", ".join(sorted(set(pairs.failures)))
            notes.append(f"* {pairs.row.name}: {len(pairs.failures)} pairs failed: {reasons}")
    return "\n".join([_aligned(lines), *notes])


def attacks_text(results: list[AttackResult]) -> str:
    """Formats the probe's figures alone and during each attack for the terminal, with a verdict."""
    lines = [["p50 / p99.9 / max", "alone", "beside it", "above", "", "base", "rounds", "probe's own"]]
    notes = []
    for result in results:
        ours = result.get(OURS)
        base = latencies(result.by[BASE]) if BASE in result.by else ""
        rounds = f"{statistics.median(ours.rounds):.0f}" if ours.rounds else ""
        own = f"{milliseconds(statistics.median(ours.own))} ms" if ours.own else ""
        verdict = "ok" if result.holds else "FAILED"
        alone = latencies(result.get(ALONE))
        lines.append([result.attack.name, alone, latencies(ours), above(result), verdict, base, rounds, own])
        for who, figures in result.by.items():
            if figures.failures:
                reasons = ", ".join(sorted(set(figures.failures)))
                notes.append(f"* {result.attack.name}, {who}: {len(figures.failures)} runs failed: {reasons}")
    return "\n".join([_aligned(lines), *notes])


def attack_section(results: list[AttackResult], base: Peer | None) -> list[str]:
    """Returns the lines of the section "Under attack"."""
    shows_base = any(BASE in result.by for result in results)
    head = ["", "alone", "during the attack", "above", *(["base"] if shows_base else [])]
    lines = [
        "## Under attack",
        "",
        "A probe, which is a client in a separate process, sends itself a realtime message every 2 ms and measures the "
        "round trip from the time at which the message was due. At the same time, one or a few clients ask the broker "
        f"for as much work as possible, for {SECONDS} s. The table shows the probe's p50 / p99.9 / maximum, medians over "
        f"the runs, and by how much the maximum exceeds that of the probe alone: at most {BAR_MS:.0f} ms. Each run has "
        "a broker that is started for it with default options.",
        "",
    ]
    if shows_base:
        version = f", {base.version}" if base else ""
        lines += [f"The column *base* is an earlier build of ours{version}, during the same attack.", ""]
    lines += ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for result in results:
        cells = [latencies(result.get(ALONE)), latencies(result.get(OURS))]
        cells.append(above(result) if result.holds else f"**{above(result)}**")
        if shows_base:
            cells.append(latencies(result.get(BASE)))
        lines.append(f"| `{result.attack.name}` | " + " | ".join(cells) + " |")
    # The meanings are a list, not a column: a `|` in them would end the cell of a table.
    lines += ["", *(f"- `{result.attack.name}`: {result.attack.meaning}." for result in results), ""]
    return lines


def latencies(figures: Figures) -> str:
    """Formats p50 / p99.9 / maximum in milliseconds."""
    if not figures.maximum:
        return "FAILED" if figures.failures else "–"
    text = " / ".join(milliseconds(value) for value in figures.medians()) + " ms"
    return f"{text}, {len(figures.failures)} FAILED" if figures.failures else text


def above(result: AttackResult) -> str:
    if not result.get(OURS).maximum or not result.get(ALONE).maximum:
        return "FAILED"
    return f"{result.above:+.1f} ms"


def milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def page(
    table: Table,
    attacked: list[AttackResult],
    peers: list[Peer],
    notices: list[str],
    facts: dict[str, str],
    shortcomings: list[str],
) -> str:
    """Returns the content of docs/performance.md."""
    lines = ["# Performance", ""]
    if shortcomings:
        lines += [f"**A trial, not to be quoted: {', '.join(shortcomings)}.**", ""]
    lines += [
        "The same load from the same client code on our broker and on others, on one machine, in turn. `make "
        "bench` writes this page; it is not written by hand.",
        "The figures are medians. **×** is the ratio to the reference broker, inverted where necessary so that "
        "more than 1 is better in every row. The smallest and the largest of all runs are below it. Failures are "
        "marked.",
        "",
        "![Ratios to the reference broker](performance.svg)",
        "",
        *table.markdown(),
        "",
        "## What each row means",
        "",
        *(f"- `{row.name}`: {row.meaning}{_better(row)}." for row, _ in table.rows),
        "",
        "A dash is a figure that does not exist:",
        "",
        *_absences(table),
        "",
        *(attack_section(attacked, next((peer for peer in peers if peer.name == BASE), None)) if attacked else []),
        "## How it was measured",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in facts.items()),
        *(f"| {peer.title} | {peer.version} |" for peer in peers),
        "",
        *(f"- Left out: {notice}." for notice in notices),
        "- The load comes from `bench/loadgen`, with blocking sockets and threads on the same machine, so that "
        "brokers and load share the cores. No broker has to queue more than the window of a scenario, except in "
        "`flood`, and in `ack64` and the rows `cli_…`, where only the broker's acknowledgements limit the sender: "
        "there, ours and the reference may queue a million messages.",
        "- All brokers except NATS are measured over UNIX sockets, unless a row says TCP. NATS does not support "
        "them: its figures in the other rows are over TCP, which costs more. Compare it in `p2p4_tcp`.",
        "- Every figure is from a broker that was started for it. Ours and the reference have 2 workers each, the "
        "others their defaults, without persistence and without bounds on their queues where that can be set.",
        "- The reference is the broker of the crate `busrt` on crates.io, optimized as `cargo install` does.",
        "- The floor is `rawrelay`: one thread that copies messages from socket to socket, without queues, checks "
        "or acknowledgements; it copies large ones once out of the kernel and once into it. A broker can only be "
        "faster by making fewer system calls or by using several threads.",
        "- The rows `cli_…` are `busrt benchmark -w 8`, each broker with its own command line client, so that they "
        "include the cost of the Rust clients. There are eight clients, each with one operation in flight if it is "
        "acknowledged. Each operation needs a read and a write on either side, as in `echo8`, and twice as many in "
        "`cli_call_handle`. The floor's figure for `echo8`, or half of it for `cli_call_handle`, is the limit that "
        "the kernel sets for one thread on either side that does nothing else.",
        "- Broker and load run in separate sessions. The kernel first divides the cores among sessions, as among "
        "services; if both are started from one shell, the acknowledged rows give other results.",
        "- `ping_p50` and `ping_p99` depend on whether the kernel wakes the three processes on one core or on "
        "several, so that their spread is large.",
        "- Features that a protocol does not have are not measured: NATS, Redis and MQTT (QoS 0) carry one-to-one "
        "messages as publications on a topic with one subscriber.",
        "- Only ratios within one run are meaningful: absolute figures depend on the machine and its load.",
        "",
    ]
    return "\n".join(lines)


def _better(row: Row) -> str:
    return "" if row.more_is_better else " (less is better)"


def _absences(table: Table) -> list[str]:
    """Returns the reasons for dashes, each reason once."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row, cells in table.rows:
        for peer in table.peers:
            cell = cells[peer.name]
            if cell.kind == ABSENT:
                by_reason.setdefault((peer.title, cell.note), []).append(f"`{row.name}`")
    return [f"- {title}, {', '.join(rows)}: {why}." for (title, why), rows in by_reason.items()]
