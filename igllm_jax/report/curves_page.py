"""The page of compared runs: a table of last values, and a plot for each metric, drawn as SVG; nothing runs in it."""

import html
import math
from collections.abc import Iterable, Sequence

from igllm_jax.report.curves import RunGroup

COLORS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#64b5cd")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 520, 300, 64, 34, 12, 12  # pixels
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; }
th, td { padding: .25rem .75rem; text-align: left; border-bottom: 1px solid #ddd; }
td { font-variant-numeric: tabular-nums; } figure { display: inline-block; margin: 0 1rem 1.5rem 0; }
figcaption { font-weight: 600; } svg text { font-size: 11px; fill: #555; }
i { display: inline-block; width: .8em; height: .8em; }
"""


def curves_page(groups: Sequence[RunGroup], metrics: Sequence[str], title: str) -> str:
    """The file."""
    heads = "".join(f"<th>{html.escape(metric)}</th>" for metric in metrics)
    plots = "".join(_figure(groups, metric) for metric in metrics)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p>Last values: the mean over runs that differ by their seed alone, with its
 95 % interval (Student) where there are several.</p>
<table><tr><th>what</th><th>runs</th>{heads}</tr>
{"".join(_row(number, group, metrics) for number, group in enumerate(groups))}</table>
<h2>Curves</h2>
<p>Thick lines are means, their bands 95 % intervals; thin lines are runs.</p>
{plots}
</body>
</html>
"""


def color_of(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _row(number: int, group: RunGroup, metrics: Sequence[str]) -> str:
    cells = "".join(f"<td>{group.final(metric) or ''}</td>" for metric in metrics)
    names = html.escape(", ".join(run.name for run in group.runs), quote=True)
    mark = f'<i style="background:{color_of(number)}"></i>'
    return f'<tr><td>{mark} {html.escape(group.name)}</td><td title="{names}">{len(group.runs)}</td>{cells}</tr>\n'


def _figure(groups: Sequence[RunGroup], metric: str) -> str:
    points = [point for group in groups for run in group.runs for point in run.curves.get(metric, {}).items()]
    if not points:
        return ""
    axes = _Axes([step for step, _ in points], [value for _, value in points])
    drawn = axes.frame()
    for number, group in enumerate(groups):
        color, mean = color_of(number), group.mean_curve(metric)
        for run in group.runs:
            drawn += axes.line(run.curves.get(metric, {}).items(), color, 0.7 if len(group.runs) > 1 else 2)
        band = [(step, one.low, one.high) for step, one in mean.items() if one.low is not None and one.high is not None]
        if band:
            edge = [(step, high) for step, _, high in band] + [(step, low) for step, low, _ in reversed(band)]
            drawn += f'<polygon points="{axes.points(edge)}" fill="{color}" opacity="0.18"/>'
            drawn += axes.line(((step, one.mean) for step, one in mean.items()), color, 2)
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    return f'<figure><figcaption>{html.escape(metric)}</figcaption><svg {size} role="img">{drawn}</svg></figure>\n'


class _Axes:
    """From steps and values to pixels."""

    def __init__(self, steps: Sequence[int], values: Sequence[float]):
        self.steps, self.values = _around(steps), _around(values)

    def points(self, points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points)

    def line(self, points: Iterable[tuple[float, float]], color: str, width: float) -> str:
        found = list(points)
        dots = "".join(f'<circle cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="2" fill="{color}"/>' for x, y in found)
        shown = dots if len(found) == 1 else ""  # a line of one point is nothing
        return shown + f'<polyline points="{self.points(found)}" fill="none" stroke="{color}" stroke-width="{width}"/>'

    def frame(self) -> str:
        drawn = ""
        for value in _ticks(*self.values):
            y = self._y(value)
            drawn += f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>'
            drawn += f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        for step in _ticks(*self.steps):
            drawn += f'<text x="{self._x(step):.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{step:g}</text>'
        return drawn

    def _x(self, step: float) -> float:
        low, high = self.steps
        return _LEFT + (step - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        low, high = self.values
        inside = min(max(value, low), high)  # a band may be wider than what was measured
        return _TOP + (high - inside) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def _around(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers from low to high."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * part for part in (1, 2, 5, 10) if power * part >= rough * 0.75)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]
