"""Scores by hand, at the edges, and the averages around them."""

import itertools
import json

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.scene.assignment import assign
from igllm_jax.scene.code import read
from igllm_jax.scene.language import find_language
from igllm_jax.scene.metrics import bootstrap_intervals, compare, match, report, score
from igllm_jax.scene.scene import Object, Scene

CUBE = Object(
    size="large", color="red", material="metal", shape="cube",
    location=(0.0, 0.0, 0.7), rotation=(45.0,), pixel=(10.0, 0.0, 9.0),
)  # fmt: skip
BALL = Object(
    size="small", color="blue", material="rubber", shape="sphere",
    location=(2.0, 0.0, 0.35), rotation=(45.0,), pixel=(20.0, 0.0, 9.0),
)  # fmt: skip
TWO = Scene((CUBE, BALL), "i")
RIGHT = (
    "add(size='large', color='red', material='metal', shape='cube', loc=(0, 0, 0.7), rotation=0)\n"
    "add(size='small', color='blue', material='rubber', shape='sphere', loc=(2, 0, 0.35))\n"
)


def clevr(text: str):
    return read(text, "clevr", rotation_rep="")


def test_a_perfect_prediction() -> None:
    expected = dict.fromkeys(("size", "color", "mat", "shape", "shp_cls", "parsed"), 100.0)
    assert score([TWO], [clevr(RIGHT)], "clevr") == expected | {"l2": 0.0, "ace": 0.0, "yaw": pytest.approx(0)}


def test_a_worked_example() -> None:
    """The lines are swapped and one object too many; a sphere, so that `shape` is about the cube alone."""
    text = (
        "add(size='tiny', color='blue', material='metal', shape='cube', loc=(2, 0.3, 0.75))\n"
        "add(size='big', color='gray', material='shiny', shape='block', loc=(0, 0, 0.7), rotation=0.7)\n"
        "add(loc=(9, 9, 9))\n"
    )
    compared = compare(TWO, clevr(text), "clevr")
    assert compared.pairs == ((1, 0), (0, 1))
    assert compared.values == {
        "l2": pytest.approx(0.25),
        "size": 100.0,
        "color": 50.0,
        "mat": 50.0,
        "shape": 100.0,
        "shp_cls": 50.0,
        "yaw": pytest.approx(np.degrees(0.7)),
        "ace": 1.0,
        "parsed": 100.0,
    }
    assert ("color", "red", "gray") in compared.words


def test_yaw_is_modulo_the_cubes_symmetry() -> None:
    cube = Scene((Object(shape="cube", location=(0.0, 0.0, 0.0), rotation=(89.0,)),), "i")  # written as +44 degrees
    text = f"add(shape='cube', loc=(0, 0, 0), rotation={np.radians(-44):.9f})"
    assert compare(cube, clevr(text), "clevr").values["yaw"] == pytest.approx(2, abs=1e-6)
    radians = Scene((Object(shape="cube", location=(0.0, 0.0, 0.0), rotation=(np.radians(89.0),)),), "i")
    assert compare(radians, clevr(text), "clevr", rotation_unit="rad").values["yaw"] == pytest.approx(2, abs=1e-6)


def test_what_a_prediction_lacks_is_scored() -> None:
    values = compare(Scene((CUBE,), "i"), clevr("add()"), "clevr").values
    assert values["l2"] == pytest.approx(0.7)
    assert values["yaw"] == pytest.approx(0)  # no rotation is 0, and 45 degrees are written as 0
    assert [values[name] for name in ("size", "color", "mat", "shape", "shp_cls")] == [0.0] * 5


@pytest.mark.parametrize("rotation_rep", ["euler", "euler_int", "aa", "6d", "quat"])
@pytest.mark.parametrize("text", ["add()", "add(rotation=(0, 0))", "add(rotation=({zeros}))", "add(rotation=({junk}))"])
def test_a_zero_rotation_is_scored_as_none_at_all(rotation_rep: str, text: str) -> None:
    count = {"6d": 6, "quat": 4}.get(rotation_rep, 3)
    text = text.format(zeros=", ".join(["0.000"] * count), junk=", ".join(["?"] * count))
    scene = Scene((Object(rotation=(0.0, 0.5, 0.0)),), "i")
    values = score([scene], [read(text, "so3", rotation_rep=rotation_rep)], "so3", rotation_rep=rotation_rep)
    assert values["geod"] == pytest.approx(np.degrees(0.5))


def test_2d_shares_and_cells() -> None:
    scenes = [Scene((Object(location=(0.5, 0.5)),), "a"), Scene((Object(location=(0.3, 0.1)),), "b")]
    readings = [read(text, "twod", rotation_rep="") for text in ("add(x=0.5, y=0.509)", "add(x=0.3, y=0.2)")]
    assert score(scenes, readings, "twod", is_seen=[True, False]) == {
        "l2": pytest.approx(0.0545),
        "within_1": 50.0,
        "within_5": 50.0,
        "l2_seen": pytest.approx(0.009),
        "l2_unseen": pytest.approx(0.1),
        "within_1_seen": 100.0,
        "within_1_unseen": 0.0,
        "within_5_seen": 100.0,
        "within_5_unseen": 0.0,
        "ace": 0.0,
        "parsed": 100.0,
    }
    assert "l2_seen" not in score(scenes, readings, "twod")


def test_scenes_without_objects_on_a_side() -> None:
    empty, nothing = Scene((), "e"), clevr("")
    result = report([empty, empty, TWO, TWO], [nothing, clevr(RIGHT), nothing, clevr(RIGHT)], "clevr")
    assert result["metrics"]["ace"] == 1.0
    assert result["metrics"]["l2"] == 0.0 and result["averaged_scenes"]["l2"] == 1
    assert result["averaged_scenes"]["ace"] == 4
    assert (result["num_scenes"], result["num_without_pairs"], result["num_matched_objects"]) == (4, 3, 2)
    assert set(result["by_object_count"]) == {"0", "2"}


def test_a_metric_that_labels_allow_but_nothing_measured_is_none() -> None:
    result = report([TWO], [clevr("rubbish")], "clevr")
    assert result["metrics"] == dict.fromkeys(["l2", "yaw", "size", "color", "mat", "shape", "shp_cls"], None) | {
        "ace": 2.0,
        "parsed": 0.0,
    }
    assert (result["num_unparsed"], result["num_unread"]) == (1, 1)
    assert score([TWO], [clevr("rubbish")], "clevr") == {"ace": 2.0, "parsed": 0.0}
    assert report([], [], "clevr", bootstrap=3)["metrics"] == {}


def test_metrics_without_labels_are_absent() -> None:
    scene = Scene((Object(shape="sphere", location=(0.0, 0.0, 0.0)),), "i")
    assert set(report([scene], [clevr(RIGHT)], "clevr")["metrics"]) == {"l2", "ace", "shp_cls", "parsed"}


def test_half_read_scenes_are_unparsed_but_scored() -> None:
    result = report([TWO], [clevr(RIGHT + "add(size='la")], "clevr")
    assert (result["num_unparsed"], result["num_unread"]) == (1, 0)
    assert result["metrics"]["ace"] == 1.0 and result["metrics"]["l2"] == 0.0


def test_breakdown_and_confusion() -> None:
    one = Scene((CUBE,), "j")
    result = report([TWO, one, one], [clevr(RIGHT), clevr("add(color='gray')"), clevr("add()")], "clevr")
    assert result["by_object_count"]["1"]["num_scenes"] == 2
    assert result["by_object_count"]["1"]["metrics"]["color"] == 0.0
    assert result["by_object_count"]["2"]["metrics"]["color"] == 100.0
    assert result["confusion"]["color"] == {"red": {"red": 1, "gray": 1, "(none)": 1}, "blue": {"blue": 1}}
    json.dumps(result, allow_nan=False)


def test_confusion_of_shapes_is_by_class() -> None:
    scene = Scene((Object(shape="chair_1", location=(0.0,) * 3, rotation=(0.0,) * 3),), "i")
    reading = read("add(shape='chair_2', loc=(0, 0, 0))", "shapenet", rotation_rep="aa")
    result = report([scene], [reading], "shapenet", rotation_rep="aa")
    assert result["confusion"]["shape"] == {"chair": {"chair": 1}}
    assert (result["metrics"]["shape"], result["metrics"]["shp_cls"]) == (0.0, 100.0)


def test_reference_averages_leave_out_exact_and_empty_scenes() -> None:
    near = clevr(RIGHT.replace("(2, 0,", "(3, 0,"))
    scenes = [TWO, TWO, TWO, Scene((), "e")]
    readings = [clevr(RIGHT), near, clevr(""), clevr("")]
    assert report(scenes, readings, "clevr")["metrics"]["l2"] == pytest.approx(0.25)
    parity = report(scenes, readings, "clevr", as_reference=True)
    assert parity["metrics"]["l2"] == pytest.approx(0.5)
    assert parity["metrics"]["ace"] == 0.0
    assert (parity["num_left_out"], parity["num_scenes"]) == (3, 4)


def test_matching_makes_the_sum_of_distances_smallest() -> None:
    scene = Scene(tuple(Object(location=(x, 0.0, 0.0)) for x in (0.0, 1.0, 5.0)), "i")
    reading = clevr("add(loc=(1.1, 0, 0))\nadd(loc=(4, 0, 0))")
    assert sorted(match(scene, reading, "clevr")) == [(1, 0), (2, 1)]


def test_objects_without_a_location_are_matched_by_order_of_appearance() -> None:
    """SciPy's solver takes the second of two true objects first where that costs the same."""
    scene = Scene(tuple(Object(location=(x, 0.0, 0.0)) for x in (3.0, 1.0, 2.0, 2.0)), "i")
    reading = clevr("add(color='red')\nadd(loc=(2, 0, 0))\nadd(color='blue')")
    assert match(scene, reading, "clevr") == ((1, 0), (2, 1), (3, 2))
    rng = np.random.default_rng(0)
    for _ in range(200):
        true, found = rng.integers(-1, 2, (rng.integers(1, 6), 2)), rng.integers(-1, 2, (rng.integers(1, 6), 2))
        pairs, plain = assign(true * 1.0, found * 1.0), assign(true * 1.0, found * 1.0, as_reference=True)
        distances = np.linalg.norm(true[:, None] - found[None], axis=-1)
        assert sum(distances[pair] for pair in pairs) == pytest.approx(sum(distances[pair] for pair in plain))
        assert len({t for t, _ in pairs}) == len({p for _, p in pairs}) == min(len(true), len(found))
        for (t1, p1), (t2, p2) in itertools.combinations(pairs, 2):  # in the order of the predicted
            same = (true[t1] == true[t2]).all() or (found[p1] == found[p2]).all()
            assert p1 < p2 and (t1 < t2 or not same)
        for unmatched in set(range(len(found))) - {p for _, p in pairs}:
            assert all(p < unmatched for _, p in pairs if (found[p] == found[unmatched]).all())


def test_very_large_predictions_are_scored() -> None:
    reading = clevr("add(loc=(999999999999, 1, 1))\nadd(loc=(-999999999999, 0, 0))\nadd(loc=(" + "9" * 400 + ", 0, 0))")
    assert np.isfinite(list(score([TWO], [reading], "clevr").values())).all()


def test_bootstrap_is_seeded_and_as_wide_as_statistics_say() -> None:
    rng = np.random.default_rng(1)
    column = rng.normal(3.0, 2.0, 401)
    column[::7] = np.nan
    values = {"l2": column, "ace": np.zeros(401)}
    intervals = bootstrap_intervals(values, 1000, 0)
    assert intervals == bootstrap_intervals(values, 1000, 0)
    assert intervals != bootstrap_intervals(values, 1000, 1)
    low, high = intervals["l2"]
    measured = column[np.isfinite(column)]
    deviation = measured.std() / np.sqrt(len(measured))
    assert low < measured.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert intervals["ace"] == [0.0, 0.0]


def test_bad_settings() -> None:
    with pytest.raises(UserError, match="rotation_rep='yaw' does not exist for task so3"):
        score([TWO], [clevr(RIGHT)], "so3", rotation_rep="yaw")
    with pytest.raises(UserError, match="rotation_unit='turns' is unknown"):
        score([TWO], [clevr(RIGHT)], "clevr", rotation_unit="turns")
    with pytest.raises(ValueError, match="zip"):
        score([TWO], [], "clevr")


def test_metrics_stand_in_the_order_of_tables() -> None:
    result = report([TWO], [clevr(RIGHT)], "clevr")
    names = ["l2", "yaw", "ace", "size", "color", "mat", "shape", "shp_cls", "parsed"]
    assert list(result["metrics"]) == list(result["about"]) == list(find_language("clevr").metrics) == names
