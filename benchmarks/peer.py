"""PyTorch's side: transformers' CLIP and LLaMA, peft's LoRA, the float head, AdamW in three groups; a worker.

It imports nothing of ours that imports JAX, so that its memory is PyTorch's.
"""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import peft
import torch
import transformers
from torch import nn

from benchmarks import work
from benchmarks.worker import memory, reset_memory, serve, timed

MAPS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}  # fmt: skip
VISION_MAPS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "out": "self_attn.out_proj",
    "fc1": "mlp.fc1", "fc2": "mlp.fc2", "norm1": "layer_norm1", "norm2": "layer_norm2",
}  # fmt: skip
IMAGE = slice(work.PROMPT[0], None)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class VLM(nn.Module):
    """The model as the reference has it: every position has logits."""

    def __init__(self, spec: dict[str, Any], *, has_lora: bool):
        super().__init__()
        vision, decoder, lora = spec["vision"], spec["decoder"], spec["lora"]
        self.feature_layer = vision["feature_layer"]
        self.vision = transformers.CLIPVisionModel(
            transformers.CLIPVisionConfig(
                hidden_size=vision["width"], intermediate_size=vision["mlp_width"],
                num_hidden_layers=vision["num_layers"], num_attention_heads=vision["num_heads"],
                image_size=vision["image_size"], patch_size=vision["patch_size"],
                layer_norm_eps=vision["layer_norm_epsilon"], attn_implementation="sdpa",
            )
        )  # fmt: skip
        self.decoder = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=decoder["vocab_size"], hidden_size=decoder["width"],
                intermediate_size=decoder["mlp_width"], num_hidden_layers=decoder["num_layers"],
                num_attention_heads=decoder["num_heads"], num_key_value_heads=decoder["num_kv_heads"],
                head_dim=decoder["head_dim"], rms_norm_eps=decoder["rms_norm_epsilon"],
                rope_theta=decoder["rope_theta"], tie_word_embeddings=decoder["tie_embeddings"],
                max_position_embeddings=2048, attn_implementation="sdpa",
            )
        )  # fmt: skip
        self.requires_grad_(False)
        if has_lora:
            wanted = peft.LoraConfig(
                r=lora["rank"], lora_alpha=lora["alpha"], lora_dropout=lora["dropout"],
                target_modules=[name.rpartition(".")[2] for name in MAPS.values()], task_type="CAUSAL_LM",
            )  # fmt: skip
            self.decoder = peft.get_peft_model(self.decoder, wanted)
        width = decoder["width"]
        self.projector = nn.Linear(vision["width"], width)
        self.float_head = nn.Sequential(nn.Tanh(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        mean, std = (torch.tensor(vision[f"image_{x}"]).view(1, 3, 1, 1) for x in ("mean", "std"))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def llama(self) -> transformers.LlamaForCausalLM:
        return self.decoder.base_model.model if isinstance(self.decoder, peft.PeftModel) else self.decoder

    def embed(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        pixels = ((images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std).to(self.vision.dtype)
        with torch.no_grad():
            features = self.vision(pixels, output_hidden_states=True).hidden_states[self.feature_layer][:, 1:]
        text = self.llama.model.embed_tokens(tokens)
        image = self.projector(features.to(self.projector.weight.dtype)).to(text.dtype)
        before = work.PROMPT[0]
        return torch.cat([text[:, :before], image, text[:, before:]], dim=1)

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy over learned tokens (the others are -100) plus mean squared error over float tokens."""
        hidden = self.llama.model(inputs_embeds=self.embed(batch["images"], batch["tokens"]), use_cache=False)[0]
        logits = self.llama.lm_head(hidden)[:, :-1].float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
        states = hidden[:, :-1][batch["is_number"]]
        found = self.float_head(states.to(self.float_head[1].weight.dtype))[:, 0]
        return loss + nn.functional.mse_loss(found.float(), batch["numbers"])


def fill(model: VLM, weights: dict[str, np.ndarray]) -> None:
    """Puts our weights (where there are none, it keeps its own) under their names; kernels are [in, out] with us and
    [out, in] there."""
    llama = dict(model.llama.named_parameters())
    vision = {name.removeprefix("vision_model."): x for name, x in model.vision.named_parameters()}
    has_lora = isinstance(model.decoder, peft.PeftModel)

    def put(target: torch.Tensor, value: np.ndarray, *, is_kernel: bool = False) -> None:
        with torch.no_grad():
            target.copy_(torch.from_numpy(np.array(value.T if is_kernel else value)))

    for path, value in weights.items():
        part, *names = path.split("/")
        kind = names[-1]
        is_kernel = kind in ("kernel", "lora_a", "lora_b")
        if part == "projector":
            put(model.projector.weight if is_kernel else model.projector.bias, value, is_kernel=is_kernel)
        elif part == "float_head":
            layer = model.float_head[1 if names[0] == "hidden" else 3]
            put(layer.weight if is_kernel else layer.bias, value, is_kernel=is_kernel)
        elif part == "decoder" and names[0] == "layers":
            for layer, own in enumerate(value):
                if names[1].endswith("_norm"):
                    name = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}[names[1]]
                else:
                    tail = {"kernel": ".base_layer" if has_lora else ""}.get(kind, f".lora_{kind[-1].upper()}.default")
                    name = f"{MAPS[names[1]]}{tail}"
                put(llama[f"model.layers.{layer}.{name}.weight"], own, is_kernel=is_kernel)
        elif part == "decoder":
            name = {"embedding": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}[names[0]]
            put(llama[f"{name}.weight"], value, is_kernel=is_kernel)
        elif names[0] == "blocks":
            tail = {"kernel": "weight", "scale": "weight", "bias": "bias"}[kind]
            for layer, own in enumerate(value):
                put(vision[f"encoder.layers.{layer}.{VISION_MAPS[names[1]]}.{tail}"], own, is_kernel=is_kernel)
        elif names[0] == "patch_embedding":
            size = model.vision.config.patch_size
            patches = value.reshape(size, size, 3, -1).transpose(3, 2, 0, 1)
            put(vision["embeddings.patch_embedding.weight"], patches)
        elif names[0] == "pre_norm":
            put(vision[f"pre_layrnorm.{'weight' if kind == 'scale' else 'bias'}"], value)
        else:
            tail = {"class_embedding": "class_embedding", "position_embedding": "position_embedding.weight"}[kind]
            put(vision[f"embeddings.{tail}"], value)


class Training:
    """The train step, eager or compiled."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.spec = json.loads((folder / "spec.json").read_text())

    def set_up_training(self, is_compiled: bool = False, batch_size: int = 0, is_checkpointed: bool = False) -> None:
        """batch_size: 0 for the folder's. is_checkpointed: recomputes each layer on the way back."""
        spec, here = self.spec, device()
        with here:
            self.model = VLM(spec, has_lora=True)
        fill(self.model, work.read_weights(self.folder))
        frozen_dtype = getattr(torch, spec["frozen_dtype"])
        groups: dict[str, list[torch.Tensor]] = {"lora": [], "projector": [], "float_head": []}
        for name, parameter in self.model.named_parameters():
            group = next((g for g in groups if f"{g}_" in name or name.startswith(f"{g}.")), None)
            parameter.requires_grad_(group is not None)
            if group is None:
                parameter.data = parameter.data.to(frozen_dtype)
            else:
                groups[group].append(parameter)
        if is_checkpointed:
            self.model.llama.gradient_checkpointing_enable()
        rates = {"lora": "lr", "projector": "projector_lr", "float_head": "float_head_lr"}
        self.optimizer = torch.optim.AdamW(
            [{"params": groups[group], "lr": spec["optim"][key]} for group, key in rates.items()], weight_decay=0.0
        )
        self.trained = [parameter for group in groups.values() for parameter in group]
        self.batch = self._read_batch(here, batch_size)
        self.compute = nullcontext
        if spec["dtype"] == "bfloat16":
            self.compute = lambda: torch.autocast(here.type, torch.bfloat16)
        self.model.train()
        self.loss_of = torch.compile(self.model.loss) if is_compiled else self.model.loss

    def _read_batch(self, here: torch.device, batch_size: int) -> dict[str, torch.Tensor]:
        found = {name: torch.from_numpy(x).to(here) for name, x in np.load(self.folder / "batch.npz").items()}
        if batch_size:
            found = {name: x[torch.arange(batch_size) % len(x)] for name, x in found.items()}
        tokens, is_answer, is_number = found["tokens"].long(), found["is_answer"], found["is_number"]
        patches = (self.spec["vision"]["image_size"] // self.spec["vision"]["patch_size"]) ** 2
        rows, before = len(tokens), work.PROMPT[0]

        def with_image(x: torch.Tensor, fill: Any) -> torch.Tensor:
            image = torch.full((rows, patches), fill, dtype=x.dtype, device=here)
            return torch.cat([x[:, :before], image, x[:, before:]], dim=1)

        labels = with_image(torch.where(is_answer, tokens, -100), -100)[:, 1:].contiguous()
        where = with_image(is_number, False)[:, 1:]
        numbers = with_image(found["numbers"], 0.0)[:, 1:][where]
        return {
            "images": found["images"], "tokens": tokens, "labels": labels, "is_number": where, "numbers": numbers,
        }  # fmt: skip

    def _step(self) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with self.compute():
            loss = self.loss_of(self.batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.spec["optim"]["clip_norm"])
        self.optimizer.step()
        return loss.detach()

    def loss(self) -> float:
        """Without dropout."""
        self.model.eval()
        with torch.no_grad(), self.compute():
            found = float(self.model.loss(self.batch))
        self.model.train()
        return found

    def steps(self, count: int) -> dict[str, float]:
        def run() -> float:
            for _ in range(count):
                loss = self._step()
            return float(loss)

        loss, spent = timed(run)
        return {"loss": loss, **{name: value / count for name, value in spent.items()}}


def matrix_rate(size: int, dtype: str) -> float:
    """FLOP/s of a square product, the better of five."""
    x = torch.ones((size, size), dtype=getattr(torch, dtype), device=device())

    def product() -> float:
        return float((x @ x)[0, 0])

    product()
    return 2 * size**3 / min(timed(product)[1]["seconds"] for _ in range(5))


def all_memory() -> dict[str, float]:
    """MiB, of the GPU too where there is one."""
    device = {"device": torch.cuda.max_memory_allocated() / 2**20} if torch.cuda.is_available() else {}
    return {**memory(), **device}


def about() -> dict[str, str]:
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    return {**versions, "platform": "gpu" if torch.cuda.is_available() else "cpu", "pid": str(os.getpid())}


def main() -> None:
    side = Training(Path(sys.argv[1]))
    handlers = {name: getattr(side, name) for name in ("set_up_training", "loss", "steps")}
    serve({**handlers, "memory": all_memory, "reset_memory": reset_memory, "matrix_rate": matrix_rate, "about": about})


if __name__ == "__main__":
    main()
