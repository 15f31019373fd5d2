"""Draws the table: a bar for each ratio to the reference, on a logarithmic scale."""

from __future__ import annotations

import math
from html import escape

from report import ABSENT, FAILED, Table, digits
from scenarios import BASE, FLOOR, MOSQUITTO, NATS, OURS, REDIS, REFERENCE

WIDTH = 900
LEFT, RIGHT = 130, 150  # space for the scenarios' names, and for the text behind the longest bar
TOP, BOTTOM = 74, 20
BAR, GAP = 13, 14  # a bar with the space below it, and the space between scenarios

# Colours of medium lightness, to be readable on white and on black.
TEXT, LINES = "#7d8590", "#7d859066"
COLOURS = {
    OURS: "#2f81f7", BASE: "#79b8ff", REFERENCE: "#7d8590", NATS: "#2da44e",
    REDIS: "#e5534b", MOSQUITTO: "#a371f7", FLOOR: "#bf8700",
}  # fmt: skip


def draw(table: Table) -> str:
    """Returns an SVG file without a background, scripts or embedded fonts."""
    others = [peer for peer in table.peers if peer.name != REFERENCE]
    ratios = [cell.ratio for _, cells in table.rows for cell in cells.values() if cell.ratio]
    # The axis covers whole powers of two, with 1 never at its end.
    low = math.floor(min(-1.0, *(math.log2(r) for r in ratios))) if ratios else -1
    high = math.ceil(max(1.0, *(math.log2(r) for r in ratios))) if ratios else 1
    step = (WIDTH - LEFT - RIGHT) / (high - low)

    def x(ratio: float) -> float:
        return LEFT + (math.log2(ratio) - low) * step

    body: list[str] = []
    y = TOP
    for row, cells in table.rows:
        # The reference has its own line if it has more to show than the ratio 1.
        is_text = row.unit == "lost" or cells.get(REFERENCE) is None or cells[REFERENCE].kind == FAILED
        shown = [p for p in (table.peers if is_text else others) if cells[p.name].kind != ABSENT]
        if not shown:
            continue
        middle = y + len(shown) * BAR / 2 + 3
        body.append(_text(LEFT - 10, middle, row.name, "end", 13, weight=600))
        for peer in shown:
            cell = cells[peer.name]
            if cell.ratio is not None and not is_text:
                left, right = sorted((x(1), x(cell.ratio)))
                # The bar is always visible, even if the ratio is close to 1.
                body.append(
                    f'<rect x="{left:.1f}" y="{y + 1}" width="{max(right - left, 1.5):.1f}" height="{BAR - 2}" '
                    f'rx="1.5" fill="{COLOURS[peer.name]}"><title>{escape(f"{peer.title}: {cell.text}")}</title></rect>'
                )
                words = f"{peer.title} ×{digits(cell.ratio)}" + (f", {cell.note}" if cell.note else "")
            else:
                words = f"{peer.title}: {cell.text}" + (f", {cell.note}" if cell.note else "")
                right = x(1)
            weight = 600 if peer.name == OURS else 400
            body.append(_text(max(right, x(1)) + 5, y + BAR - 3, words, "start", 10.5, COLOURS[peer.name], weight))
            y += BAR
        y += GAP
    end = y - GAP + 4
    head = [_text(10, 22, "Ratio to the reference broker, medians", "start", 15, weight=600)]
    head.append(_text(10, 42, "Logarithmic; to the right of ×1 is better. Figures: performance.md", "start", 12))
    for power in range(low, high + 1):
        at = x(2.0**power)
        width = 1.6 if power == 0 else 0.7
        head.append(
            f'<line x1="{at:.1f}" y1="{TOP - 8}" x2="{at:.1f}" y2="{end}" stroke="{LINES}" stroke-width="{width}"/>'
        )
        label = f"×{2**power}" if power >= 0 else f"×1/{2**-power}"
        head.append(_text(at, TOP - 13, label, "middle", 11, weight=600 if power == 0 else 400))
    height = end + BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" font-family="system-ui, sans-serif" role="img">',
            "<title>Ratio to the reference broker, by scenario and broker</title>",
            *head,
            *body,
            "</svg>",
            "",
        ]
    )


def _text(
    x: float, y: float, words: str, anchor: str, size: float, colour: str = TEXT, weight: int = 400
) -> str:  # fmt: skip
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{colour}">{escape(words)}</text>'
    )
