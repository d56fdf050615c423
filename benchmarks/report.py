"""Turns rounds into a Markdown table and a plot. Needs nothing but the standard library."""

from statistics import median
from typing import Any
from xml.sax.saxutils import escape

Raw = dict[str, Any]


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of every figure, each for itself."""
    return {key: median(each[key] for each in rounds) for key in rounds[0]}


def table(raw: Raw, what: dict[str, str]) -> str:
    conditions = raw["conditions"].items()
    said = [
        f"{key} {value:.1f}" if type(value) is float else f"{key} {value}"
        for key, value in conditions
    ]
    lines = ["; ".join(said), ""]
    for workload, servers in raw["rounds"].items():
        lines += [f"**{workload}**: {what[workload]}", ""]
        rows = {name: medians(rounds) for name, rounds in servers.items() if rounds}
        if not rows:
            continue
        reference = rows.get("node", next(iter(rows.values())))["cpu"]
        extra = [key for key in next(iter(rows.values())) if key not in _KNOWN]
        lines.append(
            "| server | CPU µs/request | of Node | requests/s | p50 ms | p99 ms | MiB | not 2xx |"
            + "".join(f" {key} |" for key in extra)
        )
        lines.append("|---|" + "---:|" * (7 + len(extra)))
        for name, row in rows.items():
            ratio = row["cpu"] / reference if reference else 0.0
            lines.append(
                f"| {name} | {row['cpu']:.1f} | {ratio:.2f} | {row['per second']:,.0f} "
                f"| {row['p50']:.2f} | {row['p99']:.2f} | {row['memory']:.0f} "
                f"| {row['failed']:.0f} |" + "".join(f" {row[key]:.1f} |" for key in extra)
            )
        lines.append("")
    return "\n".join(lines)


_KNOWN = ("ok", "failed", "per second", "cpu", "p50", "p99", "memory")

_COLOURS = {
    "ours": "#1b6ca8", "ours-aiohttp": "#4d96c9", "ours-fastapi": "#8dbfe0", "ours-file": "#0b3c5d",
    "node": "#e07a5f", "node-file": "#b5533c", "rakaia": "#81b29a", "caddy": "#3d8b6e",
    "rust-electric": "#6d6875", "rust-axum": "#a59fae",
}  # fmt: skip
_CUT_AT = 2.5
_BAR, _GAP, _LEFT, _WIDTH = 14, 26, 190, 860


def plot(raw: Raw) -> str:
    """CPU per request as bars, each workload to a scale of its own; SVG.

    A bar of several times Node's is cut, or nothing could be told of the others.
    """
    parts: list[str] = []
    y = 20
    for workload, servers in raw["rounds"].items():
        rows = {name: medians(rounds)["cpu"] for name, rounds in servers.items() if rounds}
        if not rows or not max(rows.values()):
            continue
        parts.append(_text(10, y, workload, bold=True))
        longest = min(max(rows.values()), _CUT_AT * rows.get("node", max(rows.values())))
        scale = (_WIDTH - _LEFT - 120) / longest
        for name, cpu in rows.items():
            y += _BAR + 4
            parts.append(_text(_LEFT - 8, y, name, anchor="end"))
            colour = _COLOURS.get(name, "#888888")
            length = min(cpu, longest) * scale
            cut = "… " if cpu > longest else ""
            parts.append(
                f'<rect x="{_LEFT}" y="{y - _BAR + 3}" width="{max(1.0, length):.1f}" '
                f'height="{_BAR}" fill="{colour}"/>'
            )
            parts.append(_text(_LEFT + length + 6, y, f"{cut}{cpu:,.1f} µs"))
        y += _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" '
        f'viewBox="0 0 {_WIDTH} {y}" font-family="sans-serif" font-size="12">'
        f'<rect width="{_WIDTH}" height="{y}" fill="white"/>'
    )
    return "\n".join([head, *parts, "</svg>\n"])


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
