"""The one exception that means: the user can mend this. A leaf: every module may import it."""


class UserError(ValueError):
    """Bad input in one line: what is wrong, where, and what to do. The command line prints it and exits with 2."""
