"""The table of docs/pods.md from what `igllm plan --json` wrote: `python benchmarks/plan_table.py a.json b.json`."""

import argparse
import json
from pathlib import Path

HEAD = (
    "| slice | mesh | batch (per chip) | frozen | trainables | optimizer | temporaries | peak of memory, GiB "
    "| collectives, GB per chip | bound, s | MFU at most | compile, s |"
)


def row(plan: dict) -> str:
    """One line of the table; bytes of one chip."""
    sizes = [plan["arguments"].get(kind, 0.0) for kind in ("frozen", "trainables", "optimizer")]
    held = [f"{size / 2**30:.2f}" for size in (*sizes, plan["temporaries"])]
    sent = "; ".join(
        f"{one['kind']} over {'+'.join(one['axes'])} {one['bytes'] / 1e9:.2f}"
        for one in plan["collectives"]
        if one["bytes"] >= 5e6
    )
    sent += " (read off plain attention)" if "collectives_note" in plan else ""
    batch = f"{plan['batch']} ({plan['batch_per_chip']:g})"
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1)
    bound = plan["bound"]
    end = [sent, f"{bound['step']:.2f} ({bound['limit']})", f"{bound['mfu']:.1%}", f"{plan['compile_seconds']:.0f}"]
    peak = f"{plan['peak'] / 2**30:.2f} of {plan['memory'] / 2**30:.2f}"
    return f"| {' | '.join([plan['topology'], mesh, batch, *held, peak, *end])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    files = parser.parse_args().files
    print(HEAD)
    print(f"|{' --- |' * HEAD.count(' | ')} --- |")
    for file in files:
        print(row(json.loads(file.read_text())))


if __name__ == "__main__":
    main()
