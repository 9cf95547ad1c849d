#!/usr/bin/env python3
"""Draws what the demo prints as an SVG picture of a terminal.

    gridseal demo --meters 1 --for 6 | python3 docs/picture.py > docs/demo.svg

Every line in it is a line of the program; the label's QR code is drawn as squares, because fonts draw block characters
with gaps. Only readings after the second are left out, which `...` shows. Needs Python 3.11, nothing else.
"""

import sys
from xml.sax.saxutils import escape

COLUMN, ROW, FONT = 7.25, 17, 12
MARGIN, TOP, MODULE = 18, 44, 5
READINGS = 2
BLOCKS = set("█▀▄ ")
COLOURS = {
    "demo": "#9aa5b1",
    "meter": "#7fd1ff",
    "endpoint-manager": "#c3a6ff",
    "headend": "#8ee6a1",
    "sealed": "#ff9e7a",
    "reading": "#ffe08a",
}
REST = "#d5dbe1"


def modules(rows: list[str]) -> list[list[bool]]:
    """Light squares of a QR code drawn with half blocks: two rows of squares to a line."""
    squares = []
    for row in rows:
        squares.append([mark in "█▀" for mark in row])
        squares.append([mark in "█▄" for mark in row])
    return squares


def code(rows: list[str], top: float) -> tuple[list[str], float]:
    squares = modules(rows)
    width, height = len(squares[0]) * MODULE, len(squares) * MODULE
    # The program prints dark squares as blocks or as gaps, as its terminal has it: the finder's corner is dark.
    filled = [(x, y) for y, row in enumerate(squares) for x, is_set in enumerate(row) if is_set]
    corner = min(filled, key=lambda at: (at[1], at[0]))
    is_dark = corner[0] > 0 and corner[1] > 0
    back, front = ("#ffffff", "#000000") if is_dark else ("#000000", "#ffffff")
    path = "".join(f"M{MARGIN + x * MODULE} {top + y * MODULE}h{MODULE}v{MODULE}h-{MODULE}z" for x, y in filled)
    parts = [
        f'<rect x="{MARGIN}" y="{top}" width="{width}" height="{height}" fill="{back}"/>',
        f'<path d="{path}" fill="{front}" shape-rendering="crispEdges"/>',
    ]
    return parts, height


def colour(line: str) -> str:
    """By who speaks: the second column, after the seconds."""
    parts = line.split(" s  ", 1)
    who = parts[1].split(" ", 1)[0] if len(parts) == 2 else ""
    return COLOURS.get(who, REST)


def shortened(lines: list[str]) -> list[str]:
    """Lines with the readings after the first ones left out."""
    kept, seen = [], 0
    for line in lines:
        if " s  sealed " in line:
            seen += 1
            if seen == READINGS + 1:
                kept.append("...")
        if seen > READINGS and (" s  sealed " in line or " s  reading " in line):
            continue
        kept.append(line)
    return kept


def main() -> None:
    lines = shortened([line.rstrip("\n") for line in sys.stdin])
    parts, top, at, widest = [], float(TOP), 0, 0
    parts.append(text("$ gridseal demo --meters 1", top, "#ffffff"))
    top += ROW
    while at < len(lines):
        if lines[at] and set(lines[at]) <= BLOCKS:
            rows = []
            while at < len(lines) and lines[at] and set(lines[at]) <= BLOCKS:
                rows.append(lines[at])
                at += 1
            drawn, height = code(rows, top - FONT)
            parts += drawn
            top += height + ROW / 2
            continue
        if lines[at].strip():
            parts.append(text(lines[at], top, colour(lines[at])))
            widest = max(widest, len(lines[at]))
        top += ROW if lines[at].strip() else ROW / 2
        at += 1
    width, height = MARGIN * 2 + widest * COLUMN, top + MARGIN / 2
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="Output of gridseal demo">'
    )
    print(f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#161b22"/>')
    for number, fill in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        print(f'<circle cx="{MARGIN + 4 + number * 18}" cy="16" r="5" fill="{fill}"/>')
    family = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
    print(f'<g font-family="{family}" font-size="{FONT}" xml:space="preserve">')
    print("\n".join(parts))
    print("</g>\n</svg>")


def text(line: str, top: float, fill: str) -> str:
    # The length is given, so that any monospace font ends at the same column.
    length = len(line) * COLUMN
    return f'<text x="{MARGIN}" y="{top:.0f}" fill="{fill}" textLength="{length:.0f}">{escape(line)}</text>'


if __name__ == "__main__":
    main()
