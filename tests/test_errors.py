"""What reaches a terminal is one line of characters that it can show."""

import pytest

from igllm_jax.errors import BadSampleError, DataError, UserError, shown


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


def test_errors_of_data_are_users_errors():
    assert issubclass(BadSampleError, DataError) and issubclass(DataError, UserError)
