"""What looking again adds to the answers of a run (claim 5): the first images of each split before and after `igllm
refine`, which moves numbers and leaves words alone."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.claims_cells import Cell
from benchmarks.claims_run import Setting, scored
from igllm_jax import files
from igllm_jax.refine import command
from igllm_jax.scene.predictions import model_of, read_predictions, write_predictions

IMAGES = 40  # of a split


def add_refined(cell: Cell, setting: Setting) -> bool:
    """Adds `refined` to a cell's JSON file, where its run and its answers are still there; False where they are not."""
    path = setting.result(cell)
    content = json.loads(path.read_text())
    answers = {split: setting.workdir(cell) / f"{split}-{content['steps']}.json" for split in cell.splits}
    if not all(file.exists() for file in answers.values()):
        return False
    processor = time.process_time()
    splits = {split: _before_and_after(cell, setting, split, file) for split, file in answers.items()}
    minutes = round((time.process_time() - processor) / 60, 2)
    content["refined"] = {"splits": splits, "minutes_processor": minutes}
    files.write_text(path, json.dumps(content, indent=1) + "\n")
    return True


def _before_and_after(cell: Cell, setting: Setting, split: str, answers: Path) -> dict[str, Any]:
    """side -> report, of the split's first images."""
    images, labels = setting.source(cell.data, split)
    before, after = (answers.with_name(f"{answers.stem}-{side}.json") for side in ("before", "after"))
    predictions = read_predictions(answers)
    first = dict(list(predictions.answers.items())[:IMAGES])
    write_predictions(before, dataclasses.replace(predictions, answers=first), **model_of(answers))
    if not after.exists():
        command.main(["--predictions", str(before), "--images", images, "--out", str(after), "--batch", "1"])
    return {"before": scored(labels, before), "after": scored(labels, after)}
