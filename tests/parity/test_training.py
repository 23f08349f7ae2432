"""Fifty steps of ours against a torch loop: transformers, peft, torch's AdamW in three groups, clipping, cosine."""

import copy

import jax
import numpy as np
import pytest
import torch
import transformers
from jax import numpy as jnp

from igllm_jax.interop.importing import run
from igllm_jax.interop.sources import ImportRequest
from igllm_jax.models.params import nest, unnest
from igllm_jax.models.vlm import skeleton
from igllm_jax.training.optim import OptimOptions, groups, trainable_paths
from igllm_jax.training.options import LossOptions
from igllm_jax.training.state import initial_state
from igllm_jax.training.step import make_train_step
from igllm_jax.weights import base_folder
from tests.bases import read_arrays
from tests.parity import reference
from tests.parity.test_towers import SIZES

STEPS, WARMUP, CLIP = 50, 0.03, 1.0
RATES = {"lora": 2e-3, "projector": 2e-3, "float_head": 2e-2}  # the reference's, times 100: a short run has to move


def torch_losses(model: reference.Reference, batches) -> list[float]:
    """Trains `model` itself."""
    model.decoder.train()
    lora = [p for name, p in model.decoder.named_parameters() if "lora_" in name]
    parts = {"lora": lora, "projector": list(model.projector.parameters()), "float_head": list(model.head.parameters())}
    for parameter in model.vision.parameters():
        parameter.requires_grad_(False)
    together = [{"params": parts[name], "lr": rate} for name, rate in RATES.items()]
    optimizer = torch.optim.AdamW(together, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, int(np.ceil(WARMUP * STEPS)), STEPS)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for part in parts.values() for p in part], CLIP)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def our_losses(folder, batches):
    """(losses, trained parameters by path)."""
    config, shapes = base_folder.read_config(folder), base_folder.paths(folder)
    params = base_folder.restore(folder, shapes)
    trains = trainable_paths(shapes, "lora")
    options = OptimOptions(
        trainable="lora", learning_rates=tuple(RATES.items()), warmup=WARMUP, num_steps=STEPS, beta1=0.9, beta2=0.999,
        epsilon=1e-8, weight_decay=0.0, clip_norm=CLIP, accumulate=1,
    )  # fmt: skip
    step = jax.jit(
        make_train_step(skeleton(config), reference.LAYOUT, options, LossOptions(float_weight=1.0, chunk=128, seed=0))
    )
    frozen = {path: array for path, array in params.items() if path not in trains}
    state = initial_state(nest({path: params[path].astype(jnp.float32) for path in trains}), options)
    losses = []
    for batch in batches:
        state, metrics = step(state, frozen, batch)
        losses.append(float(metrics["loss"]))
    return losses, {path: np.asarray(array) for path, array in unnest(state.params).items()}


def siglip_and_qwen():
    """A pair that shares little with the reference's."""
    sizes = {**SIZES, "intermediate_size": 29}
    heads = {"num_attention_heads": 2, "head_dim": 14}
    return {
        "vision": transformers.SiglipVisionConfig(**sizes), "num_prefix": 0,
        "decoder": transformers.Qwen2Config(**{**reference.SIZES, **heads}, attn_implementation="eager"),
    }  # fmt: skip


@pytest.mark.parametrize("pair", [dict, siglip_and_qwen], ids=["reference", "siglip_qwen2"])
def test_losses_and_updates_are_the_same(tmp_path, pair):
    theirs = reference.build(tmp_path, projector_kind="mlp2x_gelu", head_kind="tanh_mlp_gelu", seed=3, **pair())
    for name, parameter in theirs.decoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    reference.save_adapter(theirs, tmp_path / "adapter")
    before = read_arrays(reference.imported(tmp_path))
    batches = [reference.batch(rows=5, seed=seed % 7) for seed in range(STEPS)]
    expected = torch_losses(theirs, batches)
    found, after = our_losses(tmp_path / "base", batches)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert np.mean(expected[-7:]) < 0.95 * np.mean(expected[:7])  # it learned something

    reference.save_adapter(copy.copy(theirs), tmp_path / "trained")
    sources = {"vision": tmp_path / "vision", "decoder": tmp_path / "decoder", "adapter": tmp_path / "trained"}
    run(ImportRequest(out=tmp_path / "after", **sources))
    truth = read_arrays(tmp_path / "after")
    by_group: dict[str, list[str]] = {}
    for path, group in groups(after, "lora").items():
        by_group.setdefault(group, []).append(path)
    assert set(by_group) == set(RATES)
    for group, paths in by_group.items():
        ours, right = (np.concatenate([(x[p] - before[p]).ravel() for p in paths]) for x in (after, truth))
        assert np.linalg.norm(ours - right) < 0.01 * np.linalg.norm(right), group
