"""What threads of Orbax and tensorstore print of arrays that could not be read or written."""

import functools
import logging
import sys
from pathlib import Path
from typing import Any


@functools.cache
def hush_failures() -> None:
    """Keeps them quiet in this process: whoever reads or writes gets one error that says it, these are its echoes.

    One array that fails ends the event loop under the others, and each of those would print a traceback.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        origin = getattr(getattr(unraisable.object, "cr_code", None), "co_filename", "")
        if str(unraisable.exc_value) != "Event loop is closed" and "orbax" not in Path(origin).parts:
            before(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
