"""Random language files, for property tests."""

import string

from hypothesis import strategies as st

names = st.text(string.ascii_lowercase, min_size=1, max_size=4).map(lambda text: f"a_{text}")
words = st.text(string.ascii_letters + string.digits + "_-(),= .é", min_size=1, max_size=8)


def toml(value) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{toml(key)} = {toml(inner)}' for key, inner in value.items())} }}"
    return repr(value)


def text_of(language: dict) -> str:
    """The file of a language: its keys, and tables of functions with tables of attributes."""
    lines = [f"{key} = {toml(value)}" for key, value in language.items() if key != "functions"]
    for function in language["functions"]:
        lines += ["", "[[functions]]", f"name = {toml(function['name'])}"]
        for attribute in function["attributes"]:
            lines += ["", "[[functions.attributes]]", *(f"{key} = {toml(value)}" for key, value in attribute.items())]
    return "\n".join(lines) + "\n"


@st.composite
def _number_keys(draw, size: int) -> dict:
    keys: dict = {"digits": draw(st.integers(0, 5)), "sign": draw(st.booleans())}
    if draw(st.booleans()):
        keys |= {"scale": draw(st.sampled_from([0.25, 2, 8])), "offset": draw(st.sampled_from([-1, 0, 0.5]))}
    if draw(st.booleans()):
        largest = st.sampled_from([1, 5.5 if keys["digits"] else 6])
        keys |= {"minimum": draw(st.sampled_from([-2, 0])), "maximum": draw(largest)}
    return keys


@st.composite
def _attribute(draw, name: str, functions: list[str], deciding: list[tuple[str, str]]) -> dict:
    kind = draw(st.sampled_from(["word", "number", "integer", "vector", "rotation", "reference"]))
    found: dict = {"name": name, "kind": kind}
    if kind == "word":
        several = draw(st.lists(words, min_size=1, max_size=6, unique=True))
        count = draw(st.integers(1, len(several)))
        found["synonyms"] = {several[0]: several[count:]} if count < len(several) else {}
        if draw(st.booleans()):
            found["words"] = several[:count]
        elif not found["synonyms"]:
            found["synonyms"] = {several[0]: []}
        deciding.append((name, several[0]))
    elif kind == "number":
        found |= draw(_number_keys(1))
    elif kind == "integer" and draw(st.booleans()):
        found |= {"minimum": draw(st.integers(-3, 3)), "maximum": draw(st.integers(3, 30))}
    elif kind == "vector":
        size = draw(st.integers(1, 4))
        found |= {"size": size, **draw(_number_keys(size))}
        if draw(st.booleans()):
            found["arguments"] = [f"{name}{index}" for index in range(size)]
    elif kind == "rotation":
        if draw(st.booleans()):
            found["representations"] = ["yaw"]
            found["symmetry"] = draw(st.sampled_from(["none", {"axis": "z", "period_deg": 90, "offset_deg": -45}]))
        else:
            found["representations"] = ["euler", "6d", "quat"]
    elif kind == "reference":
        found["to"] = draw(st.sampled_from(functions))
    if kind != "reference" and draw(st.booleans()):
        found["required"] = True
    others = [(other, word) for other, word in deciding if other != name]
    if others and draw(st.booleans()):
        other, word = draw(st.sampled_from(others))
        found[draw(st.sampled_from(["only_for", "absent_for"]))] = {other: [word]}
    return found


@st.composite
def languages(draw) -> str:
    """The text of a file: up to three functions, each with up to four attributes of any kind."""
    functions = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    found = []
    for function in functions:
        deciding: list[tuple[str, str]] = []
        attributes = [
            draw(_attribute(name, functions, deciding))
            for name in draw(st.lists(names, min_size=1, max_size=4, unique=True))
        ]
        found.append({"name": function, "attributes": attributes})
    return text_of({"name": "random", "functions": found})
