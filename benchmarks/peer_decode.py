"""PyTorch's side of decoding: transformers' `generate` in batches, a compiled loop, and the reference's procedure.

The reference decodes one image at a time and reads the numbers in a second pass over prompt and answer.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import transformers

from benchmarks import work
from benchmarks.peer import VLM, about, all_memory, device, fill, matrix_rate
from benchmarks.worker import reset_memory, serve, timed


def merged(weights: dict[str, np.ndarray], lora: dict[str, Any]) -> dict[str, np.ndarray]:
    """LoRA added to its kernels."""
    found = {path: value for path, value in weights.items() if not path.endswith(("/lora_a", "/lora_b"))}
    for path in [path for path in weights if path.endswith("/lora_a")]:
        prefix = path.removesuffix("/lora_a")
        update = np.asarray(weights[path]) @ np.asarray(weights[f"{prefix}/lora_b"]) * (lora["alpha"] / lora["rank"])
        found[f"{prefix}/kernel"] = weights[f"{prefix}/kernel"] + update.astype(np.float32)
    return found


class Decoding:
    """One way to decode: "reference", "dynamic", "static" or "compiled"."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.spec = json.loads((folder / "spec.json").read_text())

    def set_up_decoding(self, images: int, new_tokens: int, number_id: int, way: str) -> None:
        spec, here = self.spec, device()
        self.way, self.new_tokens, self.number_id = way, new_tokens, number_id
        with here:
            self.model = VLM(spec, has_lora=False)
        fill(self.model, merged(work.read_weights(self.folder), spec["lora"]))
        self.model.eval()
        if spec["dtype"] == "bfloat16":
            for part in (self.model.vision, self.model.decoder, self.model.projector):
                part.to(torch.bfloat16)
        self.count = images
        prompt = np.load(self.folder / "batch.npz")["tokens"][:1, : sum(work.PROMPT)]
        self.prompt = torch.from_numpy(prompt).long().to(here)
        self.forbidden = [list(sequence) for sequence in work.forbidden(spec["decoder"]["vocab_size"])]
        if way == "compiled":
            self.token_step = torch.compile(self._token_step)

    def decode(self, batch: int) -> dict[str, Any]:
        images = torch.from_numpy(work.images(self.folder, self.count, batch)).to(device())

        def run() -> tuple[torch.Tensor, torch.Tensor]:
            with torch.no_grad():
                if self.way == "reference":
                    rows = [self._with_second_pass(image[None]) for image in images]
                    return torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])
                embedded = self.model.embed(images, self.prompt.expand(len(images), -1))
                return self._loop(embedded) if self.way == "compiled" else self._generate(embedded)

        (tokens, numbers), spent = timed(run)
        numbers = torch.where(tokens == self.number_id, numbers.float(), 0.0)
        return {**spent, "tokens": tokens.tolist(), "numbers": numbers.tolist()}

    def _settings(self) -> dict[str, Any]:
        count = self.new_tokens
        return {
            "do_sample": False, "max_new_tokens": count, "min_new_tokens": count, "bad_words_ids": self.forbidden,
            "eos_token_id": work.END_ID, "pad_token_id": work.END_ID, "return_dict_in_generate": True,
        }  # fmt: skip

    def _generate(self, embedded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers are read from the hidden states that `generate` gives back."""
        cache = {"cache_implementation": "static"} if self.way == "static" else {}
        found = self.model.llama.generate(
            inputs_embeds=embedded, attention_mask=torch.ones(embedded.shape[:2], device=embedded.device).long(),
            output_hidden_states=True, **self._settings(), **cache,
        )  # fmt: skip
        states = torch.stack([step[-1][:, -1] for step in found.hidden_states], dim=1)
        return found.sequences, self._numbers(states)

    def _with_second_pass(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedded = self.model.embed(image, self.prompt)
        mask = torch.ones(embedded.shape[:2], device=embedded.device).long()
        tokens = self.model.llama.generate(inputs_embeds=embedded, attention_mask=mask, **self._settings()).sequences
        answer = self.model.llama.model.embed_tokens(tokens[:, :-1])
        hidden = self.model.llama.model(inputs_embeds=torch.cat([embedded, answer], dim=1), use_cache=False)[0]
        return tokens, self._numbers(hidden[:, embedded.shape[1] - 1 :])

    def _numbers(self, states: torch.Tensor) -> torch.Tensor:
        return self.model.float_head(states.to(self.model.float_head[1].weight.dtype))[..., 0]

    def _loop(self, embedded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A static cache and one compiled function per token."""
        llama, start = self.model.llama, embedded.shape[1]
        cache = transformers.StaticCache(config=llama.config, max_cache_len=start + self.new_tokens)
        state = llama.model(inputs_embeds=embedded, past_key_values=cache, use_cache=True)[0][:, -1]
        tokens = torch.full((len(embedded), self.new_tokens), -1, dtype=torch.long, device=embedded.device)
        states = []
        for count in range(self.new_tokens):
            states.append(state)
            logits = self._allowed(llama.lm_head(state).float(), tokens[:, count - 1] if count else None)
            tokens[:, count] = logits.argmax(-1)
            if count + 1 < self.new_tokens:
                position = torch.tensor([start + count], device=embedded.device)
                state = self.token_step(tokens[:, count : count + 1], cache, position)
        return tokens, self._numbers(torch.stack(states, dim=1))

    def _token_step(self, token: torch.Tensor, cache: Any, position: torch.Tensor) -> torch.Tensor:
        found = self.model.llama.model(
            input_ids=token, past_key_values=cache, position_ids=position[None], use_cache=True, cache_position=position
        )
        return found[0][:, -1]

    def _allowed(self, logits: torch.Tensor, last: torch.Tensor | None) -> torch.Tensor:
        logits[:, work.END_ID] = -torch.inf
        for *before, banned in self.forbidden:
            if not before:
                logits[:, banned] = -torch.inf
            elif last is not None:
                logits[last == before[0], banned] = -torch.inf
        return logits


def main() -> None:
    side = Decoding(Path(sys.argv[1]))
    handlers = {name: getattr(side, name) for name in ("set_up_decoding", "decode")}
    serve({**handlers, "memory": all_memory, "reset_memory": reset_memory, "matrix_rate": matrix_rate, "about": about})


if __name__ == "__main__":
    main()
