"""The painter's twin without scene-dependent shapes draws what the painter draws."""

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.render.dataset import compose_example
from igllm_jax.render.flat.arrays import KINDS, NUMPY, pack
from igllm_jax.render.flat.dense import draw_dense
from igllm_jax.render.flat.draw import BACKDROP_COLOR, draw
from igllm_jax.render.recipe import Recipe

SIZE = {"width": 64, "height": 48}


def example(task, index=0, objects=4):
    return compose_example(Recipe(task, 1, **SIZE, min_objects=objects, max_objects=objects), "val_ID", index)


def shares(drawing, spec):
    """Shares of pixels that are within 2/255 of the painter's, and of ids that are its own."""
    expected = draw(spec)
    off = np.abs(np.asarray(drawing.image).astype(int) - np.asarray(expected.image).astype(int)).max(axis=2)
    return (off <= 2).mean(), (np.asarray(drawing.ids) == expected.ids).mean()


@pytest.mark.parametrize("task", ["clevr", "so3", "sixdof", "shapenet"])
def test_under_numpy_it_draws_what_the_painter_draws(task):
    spec = example(task)
    scene = pack(spec, most_parts=48, most_objects=6, backdrop=BACKDROP_COLOR)
    drawing = draw_dense(scene, **SIZE, most_edges=1024, kinds=KINDS, space=NUMPY)
    assert min(shares(drawing, spec)) >= 0.999


def test_parts_that_fill_the_shape_are_not_seen():
    spec = example("clevr")
    drawings = [
        draw_dense(pack(spec, most_parts=most, most_objects=most), **SIZE, most_edges=512, kinds=KINDS[:3], space=NUMPY)
        for most in (4, 9)
    ]
    np.testing.assert_array_equal(drawings[0].image, drawings[1].image)
    np.testing.assert_array_equal(drawings[0].ids, drawings[1].ids)


def test_too_many_parts_are_an_error():
    with pytest.raises(UserError, match="make it for more"):
        pack(example("clevr"), most_parts=3, most_objects=9)
