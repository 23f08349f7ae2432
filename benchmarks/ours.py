"""Our side of the train step and of decoding; a worker of train_step.py and decode.py.

    python benchmarks/ours.py FOLDER [CPU_DEVICES]

CPU_DEVICES: in how many devices a CPU is split. What is no product runs on one core per device, so one device per core
trains and decodes quicker than one that has them all.
"""

import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import passes, work
from benchmarks.worker import memory, reset_memory, serve, timed
from igllm_jax import config as configs
from igllm_jax.batch import Batch, PromptLayout
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding.answers import decode_layout, default_drafts, programs
from igllm_jax.decoding.decode_options import DecodeOptions
from igllm_jax.decoding.grammar import Grammar, compile_grammar
from igllm_jax.decoding.grammar_build import UNREACHABLE
from igllm_jax.decoding.ngram_drafts import empty
from igllm_jax.decoding.sampling import GREEDY
from igllm_jax.models.params import Params
from igllm_jax.models.vlm import initialise
from igllm_jax.parallel.sharding import MeshLayout, make_mesh
from igllm_jax.scene.language import find_language
from igllm_jax.training.step import jit_step, make_eval_step, make_train_step
from igllm_jax.weights.run_model import RunModel

LAYOUT = PromptLayout(image_offset=work.PROMPT[0], answer_offset=sum(work.PROMPT))


class Ours:
    """Weights on the device; what is measured is made when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = configs.read(folder)
        self.model = configs.model_config(self.config)

    def assemble(self) -> RunModel:
        options = configs.run_options(self.config)
        return RunModel.of(options, options.mesh.on())

    def read(self, wanted: Params) -> Params:
        """The folder's weights, typed and sharded as `wanted`; without any, drawn where they belong."""
        weights = work.read_weights(self.folder)
        if not weights:
            return self.draw(wanted)
        return {path: jax.device_put(jnp.array(weights[path], x.dtype), x.sharding) for path, x in wanted.items()}

    def draw(self, wanted: Params) -> Params:
        def values() -> Params:
            found = initialise(self.model, 0)
            return {path: found[path].astype(x.dtype) for path, x in wanted.items()}

        return jax.jit(values, out_shardings={path: x.sharding for path, x in wanted.items()})()

    # decoding

    def set_up_decoding(
        self,
        images: int,
        new_tokens: int,
        number_id: int,
        num_drafts: int | None = 0,
        grammar_of: str = "",
        dictated: str = "",
    ) -> dict[str, Any]:
        """Merges LoRA, shards the weights over all devices (or as many as the heads divide), compiles; returns the
        seconds of compiling. grammar_of: the run to whose language answers keep, or a tokenizer to keep to CLEVR's.
        dictated: LLaMA's tokenizer, to write CLEVR's code with it whatever the model thinks."""
        self.count = images
        run_model = self.assemble()
        layout = decode_layout(self.model, MeshLayout.of("decode", make_mesh({"data": 1, "fsdp": -1, "tensor": 1})))
        num_drafts = default_drafts(layout) if num_drafts is None else num_drafts
        rows = np.load(self.folder / "batch.npz")
        vocab = self.model.decoder.vocab_size
        prompt = [int(token) for token in rows["tokens"][0, : sum(work.PROMPT)]]
        before, after = prompt[: work.PROMPT[0]], prompt[work.PROMPT[0] :]
        forbidden = (*work.forbidden(vocab), (work.END_ID,))  # without an end every row has the same number of tokens
        wanted = DecodeOptions(
            tuple(before), tuple(after), new_tokens, work.END_ID, number_id, vocab, forbidden, num_drafts,
            sampling=passes.DRAWN if dictated else GREEDY,
        )  # fmt: skip
        merge, decode = programs(self.model, wanted, layout)
        prepared = merge(self.read({**run_model.frozen, **run_model.trainable}))
        self.shard = partial(layout.shard, batch_size=images)
        self.start = jax.device_put(empty(), layout.replicated()) if num_drafts else None
        self.grammar = None
        if grammar_of:
            self.grammar = jax.device_put(grammar_without_end(grammar_of, vocab), layout.replicated())
        numbers = np.arange(2 * images, dtype=np.uint32).reshape(2, images)
        self.ids = [self.shard(of_batch) if dictated else None for of_batch in numbers]
        with passes.dictated(passes.long_texts(2 * images, new_tokens, dictated)) if dictated else nullcontext():
            compiled, spent = timed(decode.lower(prepared, *self.pictures(0), *self.known(0)).compile)
        self.decoder = partial(compiled, prepared)
        return spent

    def pictures(self, batch: int) -> Any:
        return self.shard((work.images(self.folder, self.count, batch), np.ones(self.count, bool)))

    def known(self, batch: int) -> tuple[Any, Any, Any]:
        """What guesses come from, for the first batch nothing, for another what the one before it left; the grammar;
        whose answers are dictated."""
        return self.start if batch == 0 else self.table, self.grammar, self.ids[batch]

    def decode(self, batch: int) -> dict[str, Any]:
        arguments = (*self.pictures(batch), *self.known(batch))

        def run() -> Any:
            found = self.decoder(*arguments)
            return found, jax.device_get((found.tokens, found.numbers))

        (found, (tokens, numbers)), spent = timed(run)
        self.table = found.table
        return {**spent, "tokens": tokens.tolist(), "numbers": numbers.tolist(), "steps": int(found.num_steps)}

    # training

    def set_up_training(self) -> dict[str, Any]:
        """Compiles; returns seconds of compiling."""
        run_model, losses = self.assemble(), configs.loss_options(self.config)
        layout = run_model.layout
        self.params, self.state = self.read(run_model.frozen), run_model.state_of(self.read(run_model.trainable))
        self.batch = layout.shard(Batch(**np.load(self.folder / "batch.npz")), self.config.batch_size)
        shared = (run_model.skeleton, LAYOUT)
        self.eval_step = jax.jit(make_eval_step(*shared, losses, layout))
        step = jit_step(make_train_step(*shared, run_model.optim, losses, layout), run_model.abstract_state())
        compiled, spent = timed(lambda: step.lower(self.state, self.params, self.batch).compile())
        self.step = compiled
        return spent

    def loss(self) -> float:
        """Without dropout."""
        sums = self.eval_step(self.state.params, self.params, self.batch)
        return float(sums.mean(self.config.train.float_weight)["loss"])

    def steps(self, count: int) -> dict[str, float]:
        is_cut = jax.default_backend() == "cpu" and jax.device_count() > 1

        def run() -> float:
            for _ in range(count):
                self.state, metrics = self.step(self.state, self.params, self.batch)
                if is_cut:
                    jax.block_until_ready(self.state)  # several steps in flight dead-lock a CPU's devices
            return float(metrics["loss"])

        loss, spent = timed(run)
        return {"loss": loss, **{name: value / count for name, value in spent.items()}}


def grammar_without_end(path: str, vocab_size: int) -> Grammar:
    """The grammar of a run's answers, or of CLEVR's with a tokenizer, which may break off anywhere, since here the end
    is forbidden."""
    wanted: dict[str, Any] = {"rotation_rep": "", "numbers_as_tokens": True, "shuffle_attributes": False}
    task = "clevr"
    if (Path(path) / "config.json").exists():
        config = configs.read(path)
        data = configs.data_options(config)
        task = data.task
        wanted |= {"rotation_rep": data.rotation_rep, "numbers_as_tokens": config.head != "none"}
        wanted |= {"shuffle_attributes": data.shuffle_attributes}
    found = compile_grammar(find_language(task), Tokenizer.load(path), vocab_size=vocab_size, **wanted)
    return replace(found, tokens_left=np.where(found.tokens_left < UNREACHABLE, 0, found.tokens_left))


def matrix_rate(size: int, dtype: str) -> float:
    """FLOP/s of a square product, the better of five."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    product(x, x).block_until_ready()
    times = [timed(lambda: product(x, x).block_until_ready())[1]["seconds"] for _ in range(5)]
    return 2 * size**3 / min(times)


def copy_rate() -> float:
    """Bytes/s read and written by a copy of 1 GiB, the better of five."""
    x = jnp.zeros(2**28, jnp.float32)
    plus_one = jax.jit(lambda x: x + 1)
    plus_one(x).block_until_ready()
    return 2 * x.nbytes / min(timed(lambda: plus_one(x).block_until_ready())[1]["seconds"] for _ in range(5))


def all_memory() -> dict[str, float]:
    """MiB, of the device too where it counts."""
    stats = jax.devices()[0].memory_stats() or {}
    device = {"device": stats["peak_bytes_in_use"] / 2**20} if "peak_bytes_in_use" in stats else {}
    return {**memory(), **device}


def about() -> dict[str, str]:
    device = jax.devices()[0]
    return {"jax": jax.__version__, "device": device.device_kind, "platform": device.platform, "pid": str(os.getpid())}


def main() -> None:
    if len(sys.argv) > 2:
        jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
    side = Ours(Path(sys.argv[1]))
    handlers = {name: getattr(side, name) for name in ("set_up_training", "loss", "steps", "set_up_decoding", "decode")}
    rates = {"matrix_rate": matrix_rate, "copy_rate": copy_rate}
    serve({**handlers, **rates, "memory": all_memory, "reset_memory": reset_memory, "about": about})


if __name__ == "__main__":
    main()
