"""What reaches a terminal is one line of characters that it can show."""

import pytest

from igllm_jax.errors import LONGEST, BadSampleError, DataError, UserError, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ä 图.png", "plain ä 图.png"),
        ("a\x1b[2Jb\nc\td", r"a\x1b[2Jb\nc\td"),
        ("a\x9bb\x7f", r"a\x9bb\x7f"),
        ("\u202egnp.exe\u2028", r"\u202egnp.exe\u2028"),
        (b"a\xff".decode("utf-8", "surrogateescape"), r"a\udcff"),
    ],
)
def test_what_a_terminal_should_not_get_is_escaped(text, expected):
    assert shown(text) == expected == str(UserError(text))
    assert shown(text).encode() and shown(shown(text)) == shown(text)


def test_of_a_very_long_line_the_beginning_and_the_end_stay():
    told = str(UserError(f"x.json: {5000 * 'y'}; take another"))
    assert len(told) < LONGEST + 50 and told.startswith("x.json: yy") and told.endswith("yy; take another")
    assert "[2022 characters more]" in told and str(UserError("z" * LONGEST)) == "z" * LONGEST


def test_errors_of_data_are_users_errors():
    assert issubclass(BadSampleError, DataError) and issubclass(DataError, UserError)
