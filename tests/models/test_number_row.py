"""Rows of an added token: apart they compute what they do in their tables, and they alone train."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax.decoding.decode import prepare
from igllm_jax.models import number_row
from igllm_jax.models.vlm import skeleton
from igllm_jax.training import loss
from igllm_jax.training.optim import trainable_paths
from tests import small

TOKEN = small.NUMBER_ID


def apart(**changes):
    plain = small.model(layers=1, **changes)
    return plain, replace(plain, decoder=replace(plain.decoder, number_row=TOKEN))


@pytest.mark.parametrize("tied", [pytest.param(False, marks=pytest.mark.slow), True])
def test_apart_or_in_their_tables(tied):
    plain, config = apart(tied=tied)
    values = small.params(config)
    whole = number_row.merged(values, TOKEN)
    assert set(whole) == set(skeleton(plain).shapes)
    np.testing.assert_array_equal(whole["decoder/embedding"][TOKEN], values["decoder/number_row/embedding"])
    one, two = (skeleton(kind).build(own).decoder for kind, own in ((config, values), (plain, whole)))
    tokens = jnp.array([[3, TOKEN, 5]])
    np.testing.assert_array_equal(*(decoder.embed(tokens, jnp.dtype("float32")) for decoder in (one, two)))
    np.testing.assert_array_equal(one.head_kernel(), two.head_kernel())
    for mine, theirs in zip(
        *(jax.tree.leaves(prepare(v, c)) for v, c in ((values, config), (whole, plain))), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_the_rows_train_and_their_tables_do_not():
    plain, config = apart()
    values, batch = small.params(config), small.batch()
    trains = trainable_paths(values, "lora")
    assert {path for path in trains if path.startswith("decoder/") and "lora" not in path} == set(number_row.TABLES)

    def total(rows, kind, others):
        return loss.sums(skeleton(kind).build({**others, **rows}), batch, small.LAYOUT, None, chunk=5).token_loss

    rows = {path: values[path] for path in number_row.TABLES}
    found = jax.grad(total)(rows, config, values)
    whole = number_row.merged(values, TOKEN)
    tables = {path: whole[path] for path, _ in number_row.TABLES.values()}
    wanted = jax.grad(total)(tables, plain, whole)
    for path, (table, axis) in number_row.TABLES.items():
        np.testing.assert_allclose(found[path], jnp.take(wanted[table], TOKEN, axis), rtol=1e-4, atol=1e-6)
        assert np.abs(found[path]).max() > 1e-3


def test_new_rows_are_the_mean_of_the_others():
    table = jnp.arange(6.0).reshape(3, 2)
    assert number_row.with_more_rows(table, 5, 0)[3:].tolist() == [[2, 3], [2, 3]]
    assert number_row.with_more_rows(table.T, 4, 1)[:, 3].tolist() == [2, 3]
