"""The reference's model at a tiny size, put together from transformers, peft and torch alone, and its files.

Sizes are primes or as near as heads allow; eps and theta are off their defaults; keys and values have fewer heads.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from torch import nn

from igllm_jax.batch import Batch, PromptLayout
from igllm_jax.interop.importing import run
from igllm_jax.interop.sources import ImportRequest
from tests import small
from tests.interop import made

torch.set_num_threads(1)  # these models are too small for more, and tests run side by side
RANK, ALPHA, HEADS, WIDTH, VISION_WIDTH = 3, 5, 4, 28, 22
MEAN, STD = (0.41, 0.37, 0.59), (0.23, 0.29, 0.31)
LAYOUT = small.LAYOUT
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


SIZES = {  # of a decoder
    "vocab_size": made.VOCAB, "hidden_size": WIDTH, "intermediate_size": 31, "num_hidden_layers": 3,
    "num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": 6, "rms_norm_eps": 3e-3,
}  # fmt: skip


def vision_config() -> transformers.CLIPVisionConfig:
    return transformers.CLIPVisionConfig(
        hidden_size=VISION_WIDTH, intermediate_size=29, num_hidden_layers=3, num_attention_heads=2, image_size=21,
        patch_size=7, layer_norm_eps=3e-3,
    )  # fmt: skip


def decoder_config(*, tied: bool = False, vocab_size: int = made.VOCAB) -> transformers.LlamaConfig:
    sizes = SIZES | {"vocab_size": vocab_size, "rope_theta": 511.0, "tie_word_embeddings": tied}
    return transformers.LlamaConfig(**sizes, attn_implementation="eager")


def shaken(module: nn.Module, scale: float = 0.2) -> nn.Module:
    """Random values everywhere, so that no bias is 0 and no norm 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module.eval()


def projector(kind: str) -> nn.Module:
    first = nn.Linear(VISION_WIDTH, WIDTH)
    return first if kind == "linear" else nn.Sequential(first, nn.GELU(), nn.Linear(WIDTH, WIDTH))


def float_head(kind: str) -> nn.Module | None:
    if kind == "none":
        return None
    if kind == "linear":
        return nn.Linear(WIDTH, 1)
    return nn.Sequential(nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))


@dataclass
class Reference:
    """vision and decoder as transformers has them, the decoder under peft; projector and float head beside."""

    vision: nn.Module
    decoder: nn.Module
    projector: nn.Module
    head: nn.Module | None
    projector_kind: str
    head_kind: str
    feature_layer: int = -2
    num_prefix: int = 1

    def features(self, images: np.ndarray) -> torch.Tensor:
        """[B, N, Dv] of uint8 images."""
        hidden = self.vision(normalised(images), output_hidden_states=True).hidden_states
        return hidden[self.feature_layer][:, self.num_prefix :]

    def embed(self, images: np.ndarray, tokens: np.ndarray) -> torch.Tensor:
        text = self.decoder.get_input_embeddings()(torch.tensor(np.asarray(tokens)).long())
        image = self.projector(self.features(images))
        return torch.cat([text[:, : LAYOUT.image_offset], image, text[:, LAYOUT.image_offset :]], dim=1)

    def states(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(final-norm hidden states, logits) of the positions that predict the answer."""
        out = self.decoder(inputs_embeds=self.embed(batch.images, batch.tokens), output_hidden_states=True)
        first = LAYOUT.answer_offset + 9 - 1
        return out.hidden_states[-1][:, first:-1], out.logits[:, first:-1]

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy over learned tokens plus mean squared error over float tokens."""
        states, logits = self.states(batch)
        answer = slice(LAYOUT.answer_offset, None)
        is_answer, is_number = (torch.tensor(np.asarray(x)[:, answer]) for x in (batch.is_answer, batch.is_number))
        targets = torch.tensor(np.asarray(batch.tokens)[:, answer]).long()
        loss = nn.functional.cross_entropy(logits[is_answer], targets[is_answer])
        if self.head is not None and is_number.any():
            numbers = torch.tensor(np.asarray(batch.numbers)[:, answer])
            loss = loss + nn.functional.mse_loss(self.head(states[is_number])[..., 0], numbers[is_number])
        return loss


def normalised(images: np.ndarray) -> torch.Tensor:
    pixels = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    return (pixels - mean) / std


def build(
    folder: Path,
    *,
    projector_kind: str,
    head_kind: str,
    tied: bool = False,
    seed: int = 0,
    decoder: transformers.PreTrainedConfig | None = None,
    vision: transformers.PreTrainedConfig | None = None,
    num_prefix: int = 1,
) -> Reference:
    """A random model; base weights are saved in folder/vision and folder/decoder, what trains in folder/adapter.

    decoder, vision: their configs (default: LLaMA's and CLIP's). num_prefix: the tower's positions before its patches.
    """
    torch.manual_seed(seed)
    tower = shaken(transformers.AutoModel.from_config(vision_config() if vision is None else vision))
    described = decoder_config(tied=tied) if decoder is None else decoder
    decoder = shaken(transformers.AutoModelForCausalLM.from_config(described), 0.05)
    tower.save_pretrained(folder / "vision")
    decoder.save_pretrained(folder / "decoder")
    made.put_json(folder / "vision" / "preprocessor_config.json", {"image_mean": MEAN, "image_std": STD})
    made.tokenizer(folder / "decoder")
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, lora_dropout=0.0, task_type="CAUSAL_LM")
    decoder = peft.get_peft_model(decoder, config)
    head = float_head(head_kind)
    found = Reference(tower, decoder, projector(projector_kind), head, projector_kind, head_kind, num_prefix=num_prefix)
    for name, parameter in decoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    save_adapter(found, folder / "adapter")
    return found


def save_adapter(model: Reference, folder: Path) -> None:
    """The reference's checkpoint."""
    model.decoder.save_pretrained(folder)
    parts = {"base_model.model.model.mm_projector": model.projector, "base_model.model.float_head": model.head}
    tensors = {f"{prefix}.{name}": x for prefix, part in parts.items() if part for name, x in part.state_dict().items()}
    torch.save(tensors, folder / "non_lora_trainables.bin")
    made.put_json(
        folder / "config.json",
        {
            "model_type": "llava_llama",
            "mm_vision_select_layer": model.feature_layer,
            "mm_projector_type": model.projector_kind,
            "mm_hidden_size": VISION_WIDTH,
            "float_head_type": model.head_kind,
        },
    )


def imported(folder: Path, name: str = "base", **request) -> Path:
    """The folder that our importer makes of what `build` saved."""
    sources = {part: folder / part for part in ("vision", "decoder", "adapter")}
    run(ImportRequest(out=folder / name, **{**sources, **request}))
    return folder / name


def loaded_llava(folder: Path) -> nn.Module:
    """Hugging Face's LLaVA of an exported folder, which has all that it asks for and nothing else."""
    loaded, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return loaded.eval()


def batch(rows: int = 3, seed: int = 0) -> Batch:
    return small.batch(rows=rows, seed=seed)


def prompt() -> tuple[tuple[int, ...], tuple[int, ...], PromptLayout]:
    ids = tuple(int(token) for token in np.asarray(batch().tokens)[0, : LAYOUT.answer_offset])
    return ids[: LAYOUT.image_offset], ids[LAYOUT.image_offset :], LAYOUT
