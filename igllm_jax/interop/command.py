"""The command behind tools/convert_weights.py: `import` and `export`."""

import argparse
from dataclasses import fields

from igllm_jax import files, flags, paths, progress
from igllm_jax.errors import UserError
from igllm_jax.interop import base_exporting, exporting, importing, parts_exporting
from igllm_jax.interop.sources import DTYPES, KEEP, ImportRequest
from igllm_jax.weights.base_folder_writer import partial_of

# beside exporting.FORMATS: a new folder of ours; a folder for each part
BASE, PARTS = "base", "parts"
SOURCES = (
    "vision",
    "second_vision",
    "decoder",
    "llava",
    "projector",
    "adapter",
    "tokenizer",
)  # read from this machine's disk


def main(arguments: list[str]) -> int:
    """Runs the command. Raises: UserError for what the user can mend; KeyboardInterrupt that says how to go on."""
    options = parse(arguments)
    files.check_absent(options.out)  # before sources are copied from where they are
    for name in SOURCES:
        if getattr(options, name, None) is not None:
            setattr(options, name, paths.fetch(getattr(options, name)))
    try:
        return run_import(options) if options.command == "import" else run_export(options)
    except OSError as error:
        told = f"{error.filename or options.out}: {error.strerror or error}"
        raise UserError("; ".join(filter(None, (told, _how_to_go_on(options))))) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(options)) from None


def _how_to_go_on(options: argparse.Namespace) -> str:
    """Where an import has left its beginning, what to do with that."""
    has_begun = options.command == "import" and partial_of(options.out).exists()
    return "run the same command again to go on" if has_begun else ""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = flags.Parser(prog="convert_weights.py", description="PyTorch weights in and out.")
    commands = parser.add_subparsers(dest="command", required=True)
    into = commands.add_parser("import", help="to a folder for model.base, igllm generate --model and notebooks")
    into.add_argument("--vision", type=flags.path, metavar="DIR", help="an image tower, such as a CLIPVisionModel")
    into.add_argument(
        "--second_vision", type=flags.path, metavar="DIR", help="another, its features beside the first's"
    )
    into.add_argument("--decoder", type=flags.path, metavar="DIR", help="a LLaMA, Qwen, Gemma, ...")
    into.add_argument(
        "--llava", type=flags.path, metavar="DIR", help="a merged LLaVA, in its own or Hugging Face's layout"
    )
    into.add_argument("--projector", type=flags.path, metavar="FILE", help="LLaVA's mm_projector.bin")
    into.add_argument(
        "--adapter", type=flags.path, metavar="DIR", help="a PEFT adapter, or a checkpoint of the reference"
    )
    into.add_argument(
        "--tokenizer", type=flags.path, metavar="FILE", help="tokenizer.model or .json (default: the decoder's)"
    )
    into.add_argument(
        "--feature_layer",
        type=flags.whole(-1025, 1024),
        help="hidden state of the tower (default: as the configs say, or -2)",
    )
    into.add_argument("--merge_lora", action="store_true", help="add the adapter to the weights instead of keeping it")
    into.add_argument(
        "--lora_only", action="store_true", help="the adapter trained LoRA alone: no projector or float head is missing"
    )
    into.add_argument("--numbers_as_text", action="store_true", help="accept a tokenizer that splits the float token")
    out = commands.add_parser("export", help="a run or an imported folder, for PyTorch")
    model = out.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", type=flags.path, metavar="RUN", help="a run")
    model.add_argument("--model", type=flags.path, metavar="DIR", help="an imported folder")
    out.add_argument("--step", default="last", help="of the run: N, best or last (default); best_ema: its averages")
    out.add_argument("--format", required=True, choices=(*exporting.FORMATS, PARTS, BASE))
    for command in (into, out):
        command.add_argument("--dtype", choices=DTYPES, default=KEEP, help="of the tensors (default: as they are)")
        command.add_argument("--out", type=flags.path, required=True, metavar="DIR", help="must not exist yet")
    return parser.parse_args(arguments)


def run_import(options: argparse.Namespace) -> int:
    account = importing.run(
        ImportRequest(**{field.name: getattr(options, field.name) for field in fields(ImportRequest)})
    )
    for note in account.notes:
        progress.result(f"note: {note}")
    for reason, count in account.left_out.items():
        progress.result(f"left out: {count} x {reason}")
    resumed = f" ({account.tensors - account.written} were there already)" if account.written < account.tensors else ""
    told = f"{account.tensors} tensors{resumed}, {account.bytes / 1e9:.2f} GB in {account.seconds:.1f} s"
    progress.result(f"{options.out}: {told}")
    return 0


def run_export(options: argparse.Namespace) -> int:
    if options.workdir:
        model = exporting.from_run(options.workdir, options.step)
    else:
        model = exporting.from_folder(options.model)
    if options.format == BASE:
        account = base_exporting.export_base(model, options.out, options.dtype)
    elif options.format == PARTS:
        account = parts_exporting.export_parts(model, options.out, options.dtype)
    else:
        account = exporting.export(model, options.format, options.out, options.dtype)
    for note in account["notes"]:
        progress.result(f"note: {note}")
    told = f"{account['tensors']} tensors, {account['bytes'] / 1e9:.2f} GB in {account['seconds']:.1f} s"
    progress.result(f"{options.out}: {told}")
    return 0
