"""One plot a claim: curves where progress was scored, else dots with their 95 % intervals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from igllm_jax import files

COLORS = {"none": "#c44e52", "linear": "#dd8452", "tanh_mlp_gelu": "#4c72b0", "control": "#8c8c8c"}
SHORT = {"none": "text", "linear": "linear", "tanh_mlp_gelu": "tanh_mlp_gelu", "control": "control"}
SPLIT_COLORS = ("#4c72b0", "#dd8452", "#55a868")
PANELS = {  # claim -> (metric, axis label) of each panel
    "cogent": (("color", "right colour, %"), ("shape", "right shape, %"), ("l2", "mean L2, scene units")),
    "rotations": (("geod", "mean angle, degrees"),),
    "real_weights": (("color", "right colour, %"), ("shape", "right shape, %"), ("l2", "mean L2, scene units")),
    "shifts": (("l2", "mean L2, scene units"), ("geod", "mean angle, degrees"), ("shp_cls", "right class, %")),
}
LEAST = 1e-3  # an interval's low end where a logarithm shows it
FAR, PAD = 3.0, 0.05  # a mean so many times the middle one leaves the panel; of its height, above and below
INCHES, DPI = (4.4, 3.6), 100  # of a panel

Groups = list[list[dict[str, Any]]]
Estimator = Callable[..., Any]


def draw(
    claim: str, groups: Groups, path: Path, estimate: Estimator, label_of: Callable[[dict[str, Any]], str]
) -> bool:
    """Writes the claim's PNG. estimate, label_of: those of claims_report. True: it is there."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(
        {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
    ):
        if claim == "float_head":
            figure = _curves(pyplot, groups, estimate)
        elif claim == "cogent":
            figure = _by_images(pyplot, groups, estimate)
        else:
            figure = _dots(pyplot, PANELS[claim], groups, estimate, label_of)
        with files.whole_file(path) as temporary:
            # no date and no version in the file: the same runs give the same bytes
            figure.savefig(temporary, dpi=DPI, format="png", metadata={"Software": None})
        pyplot.close(figure)
    return True


def _kind(cell: dict[str, Any]) -> str:
    return "control" if cell["is_shuffled"] else cell["head"]


def _curves(pyplot: Any, groups: Groups, estimate: Estimator) -> Any:
    """Error in unseen (solid) and seen cells (dashed) against steps, a panel for each density."""
    shown = list(dict.fromkeys(group[0]["cell"]["train_split"] for group in groups))
    figure, axes = _panels(pyplot, len(shown), is_shared=True)
    for axis, density in zip(axes, shown, strict=True):
        for group in (group for group in groups if group[0]["cell"]["train_split"] == density):
            steps = [point["step"] for point in group[0]["curve"]]
            kind = _kind(group[0]["cell"])
            for metric, style in (("l2_unseen", "-"), ("l2_seen", "--")):
                found = [estimate(group, lambda run, i=i: run["curve"][i], metric) for i in range(len(steps))]
                name = f"{SHORT[kind]}, {'unseen' if style == '-' else 'seen'} cells"
                known = [(step, one) for step, one in zip(steps, found, strict=True) if one is not None]
                where = [step for step, _ in known]
                axis.plot(where, [one.mean for _, one in known], style, color=COLORS[kind], label=name, marker=".")
                low, high = [max(one.low, LEAST) for _, one in known], [one.high for _, one in known]
                axis.fill_between(where, low, high, color=COLORS[kind], alpha=0.15, linewidth=0)
        axis.set(title=density.removeprefix("checkerboard_"), xlabel="training steps", yscale="log")
    axes[0].set_ylabel("mean L2, image sides")
    _legend(figure, axes)
    return figure


def _by_images(pyplot: Any, groups: Groups, estimate: Estimator) -> Any:
    """ID (solid) and OOD (dashed) against the number of training images; the control as dots."""
    panels = PANELS["cogent"]
    figure, axes = _panels(pyplot, len(panels))
    kinds = list(dict.fromkeys(_kind(group[0]["cell"]) for group in groups))
    for axis, (metric, title) in zip(axes, panels, strict=True):
        shown = []
        for kind in kinds:
            own = [group for group in groups if _kind(group[0]["cell"]) == kind]
            numbers = [group[0]["cell"]["num_images"] for group in own]
            for split, style in (("val_ID", "-"), ("val_OOD", "--")):
                found = [estimate(group, lambda run, split=split: run["splits"][split], metric) for group in own]
                _line(axis, numbers, found, COLORS[kind], style, f"{SHORT[kind]}, {split.removeprefix('val_')}")
                shown += [one for one in found if one is not None]
        axis.set(xlabel="training images", ylabel=title, xscale="log")
        _leave_out_far(axis, shown)
        numbers = sorted({group[0]["cell"]["num_images"] for group in groups})
        axis.set_xticks(numbers, [f"{number}" for number in numbers])
        axis.minorticks_off()
    _legend(figure, axes)
    return figure


def _leave_out_far(axis: Any, shown: list[Any]) -> None:
    """Lines may leave the panel where a mean is many times what others are; else those would look alike."""
    middle = np.median([one.mean for one in shown]) if shown else 0.0
    near = [one for one in shown if one.mean <= FAR * middle]
    if len(near) < len(shown):
        low, high = min(one.low for one in near), max(one.high for one in near)
        axis.set_ylim(low - PAD * (high - low), high + PAD * (high - low))


def _line(axis: Any, where: list[float], found: list[Any], color: str, style: str, name: str) -> None:
    known = [(x, one) for x, one in zip(where, found, strict=True) if one is not None]
    means = np.array([one.mean for _, one in known])
    reach = np.abs(np.array([(one.low, one.high) for _, one in known]).T - means) if known else np.zeros((2, 0))
    axis.errorbar(
        [x for x, _ in known], means, reach, fmt=f"o{style}", color=color, label=name, markersize=4, capsize=2
    )


def _dots(
    pyplot: Any, panels: tuple[tuple[str, str], ...], groups: Groups, estimate: Estimator, label_of: Callable[..., str]
) -> Any:
    """A row for each group, a colour for each split."""
    figure, axes = _panels(pyplot, len(panels))
    splits = list(dict.fromkeys(split for group in groups for split in group[0]["splits"]))
    names = [label_of(group[0]["cell"]) for group in groups]
    for axis, (metric, title) in zip(axes, panels, strict=True):
        for number, split in enumerate(splits):
            for row, group in enumerate(groups):
                if split not in group[0]["splits"]:
                    continue
                one = estimate(group, lambda run, split=split: run["splits"][split], metric)
                if one is not None:
                    reach = [[one.mean - one.low], [one.high - one.mean]]
                    y = row + 0.16 * (number - (len(splits) - 1) / 2)
                    name = split if row == 0 else None
                    color = SPLIT_COLORS[number]
                    axis.errorbar(one.mean, y, xerr=reach, fmt="o", color=color, label=name, markersize=4, capsize=2)
        axis.set(xlabel=title, yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
        axis.set_yticklabels(names if axis is axes[0] else [])
        axis.set_xlim(left=0)
    _legend(figure, axes)
    return figure


def _legend(figure: Any, axes: list[Any]) -> None:
    """Below the panels, so that it hides nothing."""
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def _panels(pyplot: Any, count: int, *, is_shared: bool = False) -> tuple[Any, list[Any]]:
    width, height = INCHES
    figure, axes = pyplot.subplots(
        1, count, figsize=(width * count, height), layout="constrained", sharey=is_shared, squeeze=False
    )
    return figure, list(axes[0])
