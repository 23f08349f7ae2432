"""What a predictions file says of an answer beside its text: how looking again (`igllm refine`) went."""

import math
from collections.abc import Mapping
from typing import Any

from igllm_jax.scene.predictions import REFINED

MOST_NOTES = 12  # of an answer, on the page
MOST_CHARACTERS = 200  # of a note


def notes_of(detail: Mapping[str, Any]) -> list[str]:
    """Lines of text for the page, of an answer's entry; none where it was not refined. Files may hold anything."""
    refined = detail.get(REFINED)
    if not isinstance(refined, Mapping):
        return []
    notes = []
    before, after = (_number(refined.get(key)) for key in ("loss_before", "loss_after"))
    if before is not None and after is not None:
        notes.append(f"looked again: its picture differed from the image by {before:.1f} of 255, now by {after:.1f}")
    if flag := refined.get("flag"):
        notes.append(f"flagged: {flag}")
    errors = refined.get("standard_errors")
    for number, own in errors.items() if isinstance(errors, Mapping) else ():
        said = own.items() if isinstance(own, Mapping) else ()
        known = [f"{name} {value:.3f}" for name, text in said if (value := _number(text)) is not None]
        if known:
            notes.append(f"object {number}: standard errors {', '.join(known)}")
    # halves of characters, which JSON can say but a page can't hold, are replaced
    return [note[:MOST_CHARACTERS].encode("utf-8", "replace").decode("utf-8") for note in notes[:MOST_NOTES]]


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and abs(value) < 1e12 and math.isfinite(value) else None
