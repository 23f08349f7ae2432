"""The flat renderer under JAX, a batch at a time."""

import jax
import numpy as np

from igllm_jax.refine.space import draw_batch
from igllm_jax.render.flat.arrays import KINDS, pack
from igllm_jax.render.flat.draw import BACKDROP_COLOR
from tests.render.test_dense import SIZE, example, shares


def test_a_batch_under_jax_is_what_the_painter_draws():
    specs = [example("clevr", objects=3), example("so3"), example("sixdof")]
    packed = [pack(spec, most_parts=12, most_objects=4, backdrop=BACKDROP_COLOR) for spec in specs]
    scenes = jax.tree.map(lambda *rows: np.stack(rows), *packed)
    drawn = draw_batch(scenes, **SIZE, most_edges=768, kinds=KINDS, at_once=3)
    for index, spec in enumerate(specs):
        one = jax.tree.map(lambda rows, index=index: rows[index], drawn)
        assert min(shares(one, spec)) >= 0.999
