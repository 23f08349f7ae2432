import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igllm_jax.errors import UserError
from igllm_jax.interop.files import open_weights
from igllm_jax.interop.rules import PATCHES, SAME, TRANSPOSED, Rule, RuleGroup, WeightFormat, by_layers, match_tensors
from tests.interop import made

SOURCE = WeightFormat(
    "toy",
    (
        RuleGroup(
            (Rule("layers.{layer}.w{adapter}.weight", "w", TRANSPOSED, "later layer"), Rule("v", "v", SAME)),
            r"(?:m\.)?",
            "m.",
        ),
    ),
    {r".*freq": "follows from the config"},
)
SHAPES = {"w": (2, 3, 5), "v": (7,)}


def matched(tmp_path, **changes):
    named = {"m.layers.0.w.weight": np.ones((5, 3)), "layers.1.w.default.weight": np.ones((5, 3)), "m.v": np.ones(7)}
    named |= changes
    named = {name: array for name, array in named.items() if array is not None}
    return match_tensors(SOURCE, open_weights(made.save(named, tmp_path / "w.safetensors")), SHAPES)


def test_names_with_and_without_their_optional_parts_are_found(tmp_path):
    tensors, left_out = matched(tmp_path, **{"m.freq": np.ones(1), "m.layers.2.w.weight": np.ones((5, 3))})
    assert {(t.path, t.layer, t.name) for t in tensors} == {
        ("w", 0, "m.layers.0.w.weight"), ("w", 1, "layers.1.w.default.weight"), ("v", None, "m.v"),
    }  # fmt: skip
    assert left_out == {"follows from the config": 1, "later layer": 1}
    assert next(t for t in tensors if t.layer == 0).read().shape == (3, 5)


def test_everything_wrong_is_listed_at_once(tmp_path):
    with pytest.raises(UserError) as error:
        matched(
            tmp_path, x=np.ones(1), v=np.ones(7),
            **{"layers.1.w.default.weight": None, "m.layers.0.w.weight": np.ones((3, 5), np.int8)},
        )  # fmt: skip
    text = str(error.value)
    assert "1 tensor is missing: m.layers.1.w.weight" in text
    assert "1 tensor is unknown: x" in text
    assert "there twice: v (as m.v)" in text
    assert "m.layers.0.w.weight is [3, 5] instead of [5, 3]" in text
    assert "not floating point" in text and "(int8)" in text
    assert "\n" not in text


def test_names_of_many_layers_are_told_as_one():
    names = [f"m.layers.{layer}.w" for layer in (0, 1, 2, 5)] + ["v", "m.layers.3.u"]
    assert by_layers(names) == ["m.layers.{0-2,5}.w", "v", "m.layers.3.u"]


@given(st.sampled_from([SAME, TRANSPOSED]), st.integers(1, 5), st.integers(1, 5))
def test_layouts_invert(layout, rows, columns):
    array = np.arange(rows * columns).reshape(rows, columns)
    theirs = layout.to_theirs(array)
    assert theirs.shape == layout.their_shape(array.shape)
    np.testing.assert_array_equal(layout.to_ours(theirs), array)


def test_patches_are_rows_columns_rgb():
    size, width = 3, 5
    theirs = np.arange(width * 3 * size * size).reshape(width, 3, size, size)
    ours = PATCHES.to_ours(theirs)
    assert PATCHES.their_shape(ours.shape) == theirs.shape
    row, column, colour = 2, 1, 2
    np.testing.assert_array_equal(ours[(row * size + column) * 3 + colour], theirs[:, colour, row, column])
    np.testing.assert_array_equal(PATCHES.to_theirs(ours), theirs)
