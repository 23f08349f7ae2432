"""Reading a language's file: its functions, attributes and metrics, checked one by one and against each other."""

import re
from collections.abc import Mapping
from dataclasses import replace

from igllm_jax.scene.kind import MEASURES, Kind, Metric
from igllm_jax.scene.kinds import ATTRIBUTE_KINDS, Integer, Number, Vector, Word
from igllm_jax.scene.language_parts import ROLES, Attribute, Function, points_attribute
from igllm_jax.scene.toml_table import TomlTable


def parse_function(table: TomlTable, *, is_alone: bool) -> Function:
    """One function of a file. is_alone: whether there is no other, so that names of metrics need not say which."""
    name = table.name("name")
    prefix = "" if is_alone else f"{name}."
    entries = table.tables("attributes")
    attributes = [_attribute(entry, prefix) for entry in entries]
    words = {a.name: a.kind for a in attributes if isinstance(a.kind, Word)}
    settled = []
    for entry, attribute in zip(entries, attributes, strict=True):
        if attribute.decided_by and attribute.decided_by not in words:
            key = "only_for" if attribute.only_for else "absent_for"
            raise entry.error(key, f"must name a word of the same function, not {attribute.decided_by!r}")
        same = words[attribute.decided_by].same if attribute.decided_by else {}
        try:
            kind = attribute.kind.within(words)
        except ValueError as error:
            raise entry.error(None, str(error)) from None
        only_for, absent_for = (_with_synonyms(words, same) for words in (attribute.only_for, attribute.absent_for))
        settled.append(replace(attribute, kind=kind, only_for=only_for, absent_for=absent_for))
    own = tuple(_metric(entry, ("average_precision",), f"{prefix}ap", name) for entry in table.tables("metrics", []))
    meshes = table.table("meshes", {})
    function = Function(
        name=name,
        label=table.text("label", name),
        attributes=tuple(settled),
        metrics=own,
        meshes={word: meshes.text(word) for word in meshes},
    )
    table.finish()
    return function


def _with_synonyms(words: frozenset[str], same: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    return frozenset(other for word in words for other in same.get(word, (word,)))


def _attribute(table: TomlTable, prefix: str) -> Attribute:
    name = table.name("name")
    kind_name = table.choice("kind", ATTRIBUTE_KINDS)
    kind = ATTRIBUTE_KINDS[kind_name].parse(table)
    arguments = table.texts("arguments", (name,))
    if len(arguments) not in {0, 1, kind.num_parts}:
        raise table.error("arguments", f"must be 1 name or {kind.num_parts}, or none for what only labels have")
    for argument in arguments:
        if not argument.isidentifier():
            raise table.error("arguments", f"must hold names of letters, digits and _, not {argument!r}")
    decided_by, cases = "", {"only_for": frozenset[str](), "absent_for": frozenset[str]()}
    if "only_for" in table and "absent_for" in table:
        raise table.error("only_for", "and absent_for can't both be there")
    for key in cases:
        case = table.table(key, {})
        if len(case) > 1:
            raise case.error(None, "must hold one word's name, whose value decides")
        for decided_by in case:
            cases[key] = frozenset(case.texts(decided_by))
    entries = table.tables("metrics") if "metrics" in table else []
    metrics = [_metric(entry, kind.measures, f"{prefix}{name}", name) for entry in entries]
    if "metrics" not in table and arguments and kind.measures:
        metrics = [_default_metric(kind.measures[0], f"{prefix}{name}", name)]
    attribute = Attribute(
        name=name,
        kind=kind,
        arguments=arguments,
        label=table.text("label", name),
        is_required=table.boolean("required", False),
        decided_by=decided_by,
        role=table.choice("role", ROLES, ""),
        metrics=tuple(metrics),
        is_matched=table.boolean("matched", False),
        flip=_flip(table, kind),
        **cases,
    )
    if attribute.is_matched and not kind.is_number:
        raise table.error("matched", f"is for numbers, which a {kind_name} is not")
    table.finish()
    return attribute


def _flip(table: TomlTable, kind: Kind) -> tuple[tuple[float, float], ...]:
    if "flip" not in table:
        return ()
    flip = table.table("flip")
    scale, offset = (flip.numbers(key, kind.num_parts, default) for key, default in (("scale", 1.0), ("offset", 0.0)))
    flip.finish()
    stays = all(one == 1 for one in scale) and not any(offset)
    if not isinstance(kind, Number | Vector) and not (isinstance(kind, Integer) and stays):
        raise table.error("flip", "must be of a number or a vector, or {} of an integer")
    return tuple(zip(scale, offset, strict=True))


def _default_metric(measure: str, name: str, about: str) -> Metric:
    text, digits, is_better_low = MEASURES[measure]
    return Metric(name, measure, text.format(about, tolerance=0), digits, is_better_low)


def _metric(table: TomlTable, measures: tuple[str, ...], name: str, about: str) -> Metric:
    if not measures:
        raise table.error(None, "is for attributes that can be scored, which this kind can't")
    measure = table.choice("measure", measures, measures[0])
    text, digits, is_better_low = MEASURES[measure]
    needs = measure in ("within", "average_precision")
    tolerance = table.number("tolerance") if needs else 0.0
    found = Metric(
        name=table.text("name", name),
        measure=measure,
        text=table.text("text", text.format(about, tolerance=tolerance)),
        digits=table.integer("digits", digits, least=0, most=17),
        is_better_low=is_better_low,
        by_seen=table.boolean("by_seen", False),
        tolerance=tolerance,
        leave_out=table.texts("leave_out", ()) if measure == "accuracy" else (),
        of_class=table.boolean("of_class", False) if measure == "accuracy" else False,
    )
    table.finish()
    return found


def check_names(entries: list[TomlTable], functions: tuple[Function, ...]) -> None:
    """Raises: UserError where a name stands twice, or a reference names no function."""
    seen: set[str] = set()
    for entry, function in zip(entries, functions, strict=True):
        if function.name in seen:
            raise entry.error("name", f"{function.name!r} stands twice")
        seen.add(function.name)
        names = [attribute.name for attribute in function.attributes]
        arguments = [argument for attribute in function.attributes for argument in attribute.arguments]
        for what, found in (("name", names), ("argument", arguments)):
            if twice := {one for one in found if found.count(one) > 1}:
                raise entry.error("attributes", f"have the {what} {twice.pop()!r} twice")
        for number, attribute in enumerate(function.attributes):
            to = attribute.kind.refers_to
            if to and to not in {other.name for other in functions}:
                table = entry.tables("attributes")[number]
                known = ", ".join(other.name for other in functions)
                raise table.error("to", f"must be a function of this language ({known}), not {to!r}")


def check_points(label: TomlTable, label_file: str, functions: tuple[Function, ...]) -> None:
    if label_file == "points" and (len(functions) > 1 or points_attribute(functions[0]) is None):
        raise label.error("file", "= points needs one function, with one vector of 2 in the code")


def parse_order(label: TomlTable, order: str, functions: tuple[Function, ...]) -> tuple[str, int] | None:
    if order == "as labelled":
        return None
    match = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", order)
    expected = 'must be "as labelled", or an attribute\'s number such as pixel[0]'
    if match is None:
        raise label.error("order", f"{expected}, not {order!r}")
    name, index = match[1], int(match[2] or 0)
    for function in functions:
        attribute = function.by_name.get(name)
        if attribute is None or not attribute.kind.is_number or index >= attribute.kind.num_parts:
            raise label.error("order", f"{expected} of every function; {function.name} has no number {order}")
    return name, index


def rotation_choices(table: TomlTable, functions: tuple[Function, ...]) -> tuple[str, ...]:
    """What `rotation_rep` may be: "" where nothing is to be chosen, or the one name that there is."""
    choices = [getattr(a.kind, "representations", ()) for f in functions for a in f.attributes]
    several = {found for found in choices if len(found) > 1}
    if len(several) > 1:
        raise table.error("functions", "have rotations that offer different representations; they must agree")
    if several:
        return several.pop()
    return ("", *dict.fromkeys(found[0] for found in choices if found))


def all_metrics(table: TomlTable, functions: tuple[Function, ...]) -> dict[str, Metric]:
    """Every metric of the language by name, in the order of tables."""
    found = [m for f in functions for m in (*(m for a in f.attributes for m in a.metrics), *f.metrics)]
    found = [
        *found,
        *(
            replace(m, name=f"{m.name}_{where}", text=f"{m.text}, {told}")
            for m in found
            if m.by_seen
            for where, told in (("seen", "where training was"), ("unseen", "where it was not"))
        ),
    ]
    for name, measure in (("ace", "count"), ("parsed", "parsed")):
        text, digits, is_better_low = MEASURES[measure]
        found.append(Metric(name, measure, text, digits, is_better_low))
    names = [metric.name for metric in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise table.error("functions", f"have the metric {twice.pop()!r} twice; give `metrics` names of their own")
    ranks = list(MEASURES)
    is_seen_part = {m.name: m.name.endswith(("_seen", "_unseen")) for m in found}
    found.sort(key=lambda m: (m.measure == "parsed", is_seen_part[m.name], ranks.index(m.measure)))
    return {metric.name: metric for metric in found}
