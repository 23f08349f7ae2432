"""What is exported is loaded by peft and transformers and gives the same outputs."""

from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from igllm_jax.data.images import preprocess
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.interop import exporting
from igllm_jax.interop.files import open_weights
from igllm_jax.interop.importing import run
from igllm_jax.interop.sources import ImportRequest
from igllm_jax.weights import base_folder
from tests.interop import made
from tests.parity import reference
from tests.parity.test_outputs import (
    CASES,
    TOLERANCE,
    assert_near,
    hugging_face_llava,
    hugging_face_logits,
    outputs,
)


@pytest.fixture(scope="module", params=CASES, ids=["-".join(case) for case in CASES])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    theirs = reference.build(folder, projector_kind=request.param[0], head_kind=request.param[1], seed=2)
    reference.imported(folder)
    return theirs, folder


class Holder(nn.Module):
    """Has the two parts under the names that the reference's model has them."""

    def __init__(self, projector: nn.Module, head: nn.Module | None):
        super().__init__()
        self.model = nn.Module()
        self.model.mm_projector = projector
        if head is not None:
            self.float_head = head


def as_the_reference_reads(path) -> dict[str, torch.Tensor]:
    """non_lora_trainables.bin with the prefixes of PEFT's wrappers taken off, as LLaVA's loader does."""
    found = torch.load(path, weights_only=True)
    found = {name.removeprefix("base_model."): value for name, value in found.items()}
    if any(name.startswith("model.model.") for name in found):
        found = {name.removeprefix("model."): value for name, value in found.items()}
    return found


def test_peft_loads_the_adapter(pair):
    theirs, folder = pair
    exporting.export(exporting.from_folder(folder / "base"), "peft", folder / "peft")
    decoder = transformers.LlamaForCausalLM.from_pretrained(folder / "decoder", attn_implementation="eager")
    again = reference.Reference(
        theirs.vision,
        peft.PeftModel.from_pretrained(decoder, folder / "peft").eval(),
        reference.projector(theirs.projector_kind),
        reference.float_head(theirs.head_kind),
        theirs.projector_kind,
        theirs.head_kind,
    )
    beside = as_the_reference_reads(folder / "peft" / "non_lora_trainables.bin")
    Holder(again.projector, again.head).load_state_dict(beside, strict=True)
    batch = reference.batch()
    with torch.no_grad():
        (states, logits), (states_before, logits_before) = again.states(batch), theirs.states(batch)
        torch.testing.assert_close(logits, logits_before, atol=0, rtol=0)
        if theirs.head is not None:
            torch.testing.assert_close(again.head(states), theirs.head(states_before), atol=0, rtol=0)
        assert_near(outputs(folder / "base", batch)[0], logits)


def test_peft_loads_an_adapter_onto_hugging_faces_llava(tmp_path):
    llava = hugging_face_llava(tmp_path / "llava")
    reference.build(tmp_path, projector_kind="mlp2x_gelu", head_kind="none", seed=5)
    (tmp_path / "adapter" / "non_lora_trainables.bin").unlink()  # the projector stays LLaVA's
    sources = {"llava": tmp_path / "llava", "adapter": tmp_path / "adapter", "tokenizer": tmp_path / "decoder"}
    run(ImportRequest(out=tmp_path / "base", **sources))
    exporting.export(exporting.from_folder(tmp_path / "base"), "peft", tmp_path / "peft")
    batch = reference.batch()
    with torch.no_grad():
        bare = hugging_face_logits(llava, batch)
        loaded = peft.PeftModel.from_pretrained(llava, tmp_path / "peft").eval()
        assert not any("lora_" in name and "vision" in name for name, _ in loaded.named_parameters())
        logits = hugging_face_logits(loaded, batch)
        assert_near(outputs(tmp_path / "base", batch)[0], logits)
    assert (logits - bare).abs().max() > 0.01  # the adapter does something
    run(ImportRequest(out=tmp_path / "again", **{**sources, "adapter": tmp_path / "peft"}))
    before, after = (exporting.from_folder(tmp_path / name) for name in ("base", "again"))
    for path in before.shapes:
        np.testing.assert_array_equal(before.read(path), after.read(path), err_msg=path)


def test_an_exported_adapter_is_imported_again(pair):
    _, folder = pair
    exporting.export(exporting.from_folder(folder / "base"), "peft", folder / "once")
    reference.imported(folder, "again", adapter=folder / "once")
    before, after = (exporting.from_folder(folder / name) for name in ("base", "again"))
    assert before.config == after.config
    for path in before.shapes:
        np.testing.assert_array_equal(before.read(path), after.read(path), err_msg=path)


def test_transformers_loads_the_merged_llava(pair):
    theirs, folder = pair
    exporting.export(exporting.from_folder(folder / "base"), "llava-hf", folder / "hf")
    loaded = reference.loaded_llava(folder / "hf")
    batch = reference.batch()
    with torch.no_grad():
        logits = hugging_face_logits(loaded, batch)[..., : made.VOCAB]
        assert_near(logits.numpy(), theirs.states(batch)[1])
    if theirs.head is not None:
        weights = open_weights(folder / "hf" / "float_head.safetensors")
        expected = {f"float_head.{name}": value.numpy() for name, value in theirs.head.state_dict().items()}
        assert set(weights.infos) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(weights.read(name), value, atol=TOLERANCE)


@pytest.mark.parametrize("aspect_ratio", ["pad", "square"])
def test_hugging_faces_processor_prepares_images_as_training_did(pair, tmp_path, aspect_ratio):
    _, folder = pair
    model = exporting.from_folder(folder / "base")
    model = replace(model, about={**model.about, "image_aspect_ratio": aspect_ratio})
    exporting.export(model, "llava-hf", tmp_path / "hf")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "hf")
    pixels = np.random.default_rng(1).integers(0, 256, (31, 47, 3)).astype(np.uint8)
    found = processor(images=Image.fromarray(pixels), text="<image>", return_tensors="pt")["pixel_values"]
    expected = preprocess(Image.fromarray(pixels), 21, aspect_ratio, reference.MEAN)
    torch.testing.assert_close(found, reference.normalised(expected[None]), atol=1e-5, rtol=0)
    run(ImportRequest(out=tmp_path / "again", llava=tmp_path / "hf"))
    assert base_folder.aspect_ratio(tmp_path / "again") == aspect_ratio


def test_huggings_faces_processor_puts_the_image_where_it_belongs(pair):
    _, folder = pair
    out = folder / "processed"
    exporting.export(exporting.from_folder(folder / "base"), "llava-hf", out)
    processor = transformers.AutoProcessor.from_pretrained(out)
    made_inputs = processor(images=Image.new("RGB", (40, 30)), text="add <image> red", return_tensors="pt")
    placeholder = transformers.AutoConfig.from_pretrained(out).image_token_index
    tokenizer = Tokenizer.load(folder / "base")
    text = [*tokenizer.encode("add ", bos=True), *[placeholder] * 9, *tokenizer.encode(" red")]
    assert made_inputs["input_ids"][0].tolist() == text
    assert tuple(made_inputs["pixel_values"].shape) == (1, 3, 21, 21)
