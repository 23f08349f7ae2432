"""The page of compared runs: a table of last values, and a plot for each metric, drawn as SVG; nothing runs in it."""

import html
import math
from collections.abc import Iterable, Sequence

from igllm_jax.report.curves import RunGroup

COLORS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#64b5cd")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 520, 300, 64, 38, 12, 16  # pixels
_HIDDEN = 0.1  # of the steps: in the first ones a loss is many times what it is later
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; }
th, td { padding: .25rem .75rem; text-align: left; border-bottom: 1px solid #ddd; }
td { font-variant-numeric: tabular-nums; } figure { display: inline-block; margin: 0 1rem 1.5rem 0; }
figcaption { font-weight: 600; } svg text { font-size: 11px; fill: #555; }
i { display: inline-block; width: .8em; height: .8em; } th { vertical-align: bottom; } small { font-weight: 400; }
.wide { overflow-x: auto; } .names span { margin-right: 1.5rem; overflow-wrap: anywhere; }
"""


def curves_page(groups: Sequence[RunGroup], metrics: Sequence[str], title: str) -> str:
    """The file."""
    heads = "".join(_head(number, group) for number, group in enumerate(groups))
    rows = "".join(_row(groups, metric) for metric in metrics)
    names = "".join(f"<span>{_mark(number)} {html.escape(group.name)}</span>" for number, group in enumerate(groups))
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
<div class="wide"><table><tr><th></th>{heads}</tr>
{rows}</table></div>
<h2>Curves</h2>
<p>Thick lines are means, their bands 95 % intervals; thin lines are runs. Values of the first tenth of the steps
 may lie beyond what is shown.</p>
<p class="names">{names}</p>
{plots}
</body>
</html>
"""


def color_of(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _mark(number: int) -> str:
    return f'<i style="background:{color_of(number)}"></i>'


def _head(number: int, group: RunGroup) -> str:
    names = html.escape(", ".join(run.name for run in group.runs), quote=True)
    count = f"{len(group.runs)} run{'s' * (len(group.runs) > 1)}"
    return f'<th title="{names}">{_mark(number)} {html.escape(group.name)}<br><small>{count}</small></th>'


def _row(groups: Sequence[RunGroup], metric: str) -> str:
    cells = "".join(f"<td>{group.final(metric) or ''}</td>" for group in groups)
    return f"<tr><th>{html.escape(metric)}</th>{cells}</tr>\n"


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
        self.steps = _around(steps)
        late = [value for step, value in zip(steps, values, strict=True) if step >= _HIDDEN * max(steps)]
        self.values = _around(late)

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
            drawn += f'<text x="{self._x(step):.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{step:g}</text>'
        return drawn + f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 3}" text-anchor="middle">step</text>'

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
