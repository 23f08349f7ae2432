"""Several answers for one image: how far they agree, and whether that says how right they are."""

from typing import Any

import numpy as np
import pytest

from igllm_jax.scene.agreement import agreement
from igllm_jax.scene.calibration import calibration, likeliest, reliability
from igllm_jax.scene.code import read
from igllm_jax.scene.language import find_language
from igllm_jax.scene.scene import Object, Scene

CLEVR = find_language("clevr")


def answer(*calls: tuple[str, float]) -> Any:
    lines = [
        f"add(size='large', color='{color}', material='metal', shape='cube', loc=({x:.4f}, 0, 0), rotation=0.0)"
        for color, x in calls
    ]
    return read("\n".join(lines), CLEVR, rotation_rep="")


def test_words_have_shares_and_numbers_a_spread() -> None:
    """Calls are matched by location, whatever their order; one answer lacks the second call."""
    readings = [
        answer(("red", 0.0), ("blue", 2.0)),
        answer(("green", 2.2), ("red", 0.3)),
        answer(("cyan", -0.3)),
    ]
    first, second = agreement(readings, CLEVR)
    assert first["found"] == 1 and second["found"] == pytest.approx(2 / 3)
    assert first["words"]["color"] == pytest.approx(2 / 3) and second["words"]["color"] == pytest.approx(1 / 3)
    location = next(name for name, spread in first["spread"].items() if len(spread) == 3)
    assert first["spread"][location] == pytest.approx([np.std([0.0, 0.3, -0.3]), 0, 0])
    assert second["spread"][location] == pytest.approx([0.1, 0, 0])


def test_samples_of_the_truth_are_calibrated() -> None:
    """Colors drawn with the shares that the true one has, numbers from one normal distribution with the true one."""
    rng, scenes, samples = np.random.default_rng(0), [], []
    colors = ["red", "blue", "green"]
    name = next(a.name for a in CLEVR.functions[0].attributes if a.is_matched)
    for _ in range(400):
        share = rng.dirichlet([0.4, 0.4, 0.4])
        where = rng.normal()
        true = {"color": str(rng.choice(colors, p=share)), name: (float(where + rng.normal()), 0.0, 0.0)}
        scenes.append(Scene((Object.of("add", true),), "i"))
        drawn = rng.choice(colors, p=share, size=12)
        samples.append([answer((str(color), where + rng.normal())) for color in drawn])
    found = calibration(scenes, samples, CLEVR)
    assert found is not None and found["words"]["count"] == 400 and found["words"]["error"] < 0.08
    assert sum(count for *_, count in found["words"]["bins"]) == 400
    along = [3 * (found["coverage"][f"{level:g}"] - 2 / 3) for level in (0.5, 0.8, 0.95)]  # y and z are always 0
    assert along == pytest.approx([0.5, 0.8, 0.95], abs=0.07)
    sure = [[answer(("red", 5.0)), answer(("red", 5.0))] for _ in scenes]
    wrong = calibration(scenes, sure, CLEVR)
    assert wrong is not None and wrong["words"]["error"] > 0.4 and wrong["coverage"]["0.95"] == pytest.approx(2 / 3)
    assert calibration([Scene((), "i")], [[answer()]], CLEVR) is None


def test_bins_and_the_likeliest() -> None:
    found = reliability(np.array([0.15, 0.15, 1.0, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]))
    assert found["bins"] == [[0.15, 0.5, 2], [1.0, 1.0, 2]] and found["error"] == pytest.approx(0.175)
    assert likeliest([-3.0, -1.0, -1.0]) == 1
