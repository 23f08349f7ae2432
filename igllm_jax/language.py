"""`igllm language FILE`: checks a scene language, and shows what its code, its tokens and its labels look like."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator

import numpy as np

from igllm_jax import flags, progress
from igllm_jax.data.prompts import answer
from igllm_jax.data.tokens import Tokenizer, train_small
from igllm_jax.errors import UserError
from igllm_jax.scene.code import FLOAT_TOKEN, Written, write
from igllm_jax.scene.examples import example_scene, scene_label
from igllm_jax.scene.kind import ROTATION_UNITS, Settings, Spelling
from igllm_jax.scene.labels import stream_labels
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.language_parts import Attribute
from igllm_jax.scene.scene import Scene

CALLS = 2  # of the example, for each function
TEXTS = 500  # answers that a small vocabulary is trained on, where no tokenizer is given
SHOWN = 10  # labels that cannot be said, of each reason the first


def main(argv: list[str]) -> int:
    """Prints what the file means; 1 where labels were given that it cannot say. Raises: UserError for a bad file."""
    parser = flags.Parser(prog="igllm language", description=__doc__)
    parser.add_argument(
        "language",
        type=flags.source,
        metavar="FILE",
        help="a language's .toml file, or the name of one that comes along",
    )
    parser.add_argument("--rotation_rep", help="how rotations are written (default: the first that it allows)")
    parser.add_argument(
        "--tokenizer",
        type=flags.source,
        help="tokenizer.model or tokenizer.json (default: a small one, trained on made-up scenes)",
    )
    parser.add_argument(
        "--labels", type=flags.source, help="a label file: says which of its scenes the language can't say"
    )
    parser.add_argument(
        "--rotation_unit", choices=ROTATION_UNITS, default="deg", help="of labels that come in either unit"
    )
    arguments = parser.parse_args(argv)
    language = find_language(arguments.language)
    rep = language.rotation_reps[0] if arguments.rotation_rep is None else arguments.rotation_rep
    settings = language.settings(rep, arguments.rotation_unit)
    parts = (*_functions(language, settings), *_example(language, settings, arguments.tokenizer))
    for line in (line for part in parts for line in part.split("\n")):
        progress.result(line)
    return 0 if arguments.labels is None else check_labels(arguments.labels, language, settings)


def _functions(language: Language, settings: Settings) -> Iterator[str]:
    yield f"language {language.name}: {language.origin} is well formed"
    yield f"question: {language.question}"
    for function in language.functions:
        yield f"\n{function.name}("
        for attribute in function.attributes:
            for argument, spelling in zip(attribute.arguments, attribute.spellings(settings), strict=True):
                yield f"  {argument}={_shape(spelling)}{_conditions(attribute)}"
        yield ")"
    yield "\nmetrics: " + ", ".join(language.metrics)
    yield "rotation_rep: " + ", ".join(rep or '""' for rep in language.rotation_reps)


def _shape(spelling: Spelling) -> str:
    if spelling.kind == "word":
        return "any word" if spelling.words is None else " | ".join(f"'{word}'" for word in spelling.words)
    if spelling.refers_to:
        return f"an earlier {spelling.refers_to}, counted from 0"
    if spelling.kind == "integer":
        low, high = ("..." if limit is None else str(limit) for limit in (spelling.minimum, spelling.maximum))
        return f"an integer from {low} to {high}"
    one = spelling.number.template.format(0.0)
    return f"({', '.join([one] * spelling.count)})" if spelling.in_brackets else one


def _conditions(attribute: Attribute) -> str:
    text = ", required" if attribute.is_required else ""
    for words, said in ((attribute.only_for, "only for"), (attribute.absent_for, "absent for")):
        if words:
            text += f", {said} {attribute.decided_by} {', '.join(sorted(words))}"
    return text


def _write(scene: Scene, language: Language, settings: Settings, *, as_tokens: bool) -> Written:
    return write(
        scene,
        language,
        rotation_rep=settings.rotation_rep,
        rotation_unit=settings.rotation_unit,
        numbers_as_tokens=as_tokens,
        rng=None,
        shuffle_attributes=False,
        use_synonyms=False,
    )


def _example(language: Language, settings: Settings, tokenizer_path: str | None) -> Iterator[str]:
    rng = np.random.default_rng(0)
    scene = example_scene(language, rng, calls=CALLS * len(language.functions))
    text, tokens = (_write(scene, language, settings, as_tokens=as_tokens) for as_tokens in (False, True))
    if tokenizer_path:
        tokenizer = Tokenizer.load(tokenizer_path)
    else:
        scenes = (example_scene(language, rng, calls=1 + index % 7) for index in range(TEXTS))
        texts = [
            answer(_write(s, language, settings, as_tokens=i % 2 > 0).text, language) for i, s in enumerate(scenes)
        ]
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = train_small(texts, folder)
    yield f"\nan example with numbers as text ({_count(tokenizer, text)} tokens):\n{text.text}"
    yield f"with {FLOAT_TOKEN} for the float head ({_count(tokenizer, tokens)} tokens, {len(tokens.numbers)} numbers):"
    yield tokens.text
    line = tokens.text.partition("\n")[0]
    yield "the first line's tokens: " + "|".join(tokenizer.surface(token) for token in tokenizer.encode(line))
    if language.label_file == "points":
        yield "\nlabels: FILE.npz:SPLIT, points [N, 2]"
    else:
        label = scene_label(scene, language)
        calls = ",\n  ".join(json.dumps(call) for call in label[language.calls_key])
        yield f'\nits label:\n{{"{language.image_key}": "{scene.image}", "{language.calls_key}": [\n  {calls}\n]}}'


def _count(tokenizer: Tokenizer, written: Written) -> int:
    return len(tokenizer.encode(written.text))


def check_labels(labels: str, language: Language, settings: Settings) -> int:
    """Prints how many scenes of a label file the language can say, and why it can't say others; 1 if there are any."""
    reasons: Counter[str] = Counter()
    first: dict[str, int] = {}
    total = 0
    for index, label in enumerate(stream_labels(labels, language)):
        total += 1
        try:
            scene = label if isinstance(label, Scene) else Scene.from_label(label, language)
            _write(scene, language, settings, as_tokens=True)
        except UserError as error:
            reason = str(error).partition(" (image ")[0]
            reasons[reason] += 1
            first.setdefault(reason, index)
    progress.result("")
    progress.result(f"{labels}: {total - reasons.total()} of {total} scenes can be said")
    for reason, count in reasons.most_common(SHOWN):
        progress.note(f"  {count} can't, scene {first[reason]} first: {reason}")
    if len(reasons) > SHOWN:
        progress.note(f"  ... and {len(reasons) - SHOWN} more reasons")
    return 1 if reasons else 0
