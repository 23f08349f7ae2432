"""What means that the user can mend it. A leaf: every module may import it."""

LONGEST = 3000  # characters of a message


class UserError(ValueError):
    """Bad input in one line: what is wrong, where, and what to do. The command line prints it and exits with 2.

    Names and other people's texts may be put in as they are: what no terminal should get is escaped here.
    """

    def __init__(self, message: object = ""):
        super().__init__(_clipped(shown(message)))


class DataError(UserError):
    """Data that cannot be read in the middle of a run: what was learned until then is saved before the run ends."""


class BadSampleError(DataError):
    """One example that cannot be read; `data.on_bad_sample=skip` goes on without it."""


def _clipped(text: str) -> str:
    """A line that can still be read: of a very long one, the beginning (where) and the end (what to do)."""
    left_out = len(text) - LONGEST
    if left_out <= 0:
        return text
    return f"{text[: LONGEST * 3 // 4]} [{left_out} characters more] {text[-LONGEST // 4 :]}"


def shown(text: object) -> str:
    r"""`text` as one line that any terminal and any file takes: control characters, line breaks, what turns the
    writing direction, and halves of characters (names that are not UTF-8) are escaped as Python escapes them.

    Example: `shown("a\x1b[2J\udcff.png")` is `a\x1b[2J\udcff.png`, all of it printable.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
