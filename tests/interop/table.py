"""The compatibility table out of what `results.py` found: `python tests/interop/table.py OUT.md RESULTS.json ...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from peers import BY_HAND, PEERS

_HEAD = """# Networks to and from other frameworks, spike for spike

Written by `tests/interop/table.py` from runs in each framework's own environment; 4 recordings of 30 steps, random weights.

- **equal**: no spike differs. **converted**: none does with `dpap-neuro export --for PEER`; a plain `export` prints a line that names the frameworks to which its file is another network.
- **said**: spikes differ, and every command prints a line that says what was assumed and what follows.
- **refused**: with one line that says why, given below the table.

Sinabs and Rockpool run our files with what `export --for` tells to set by hand: one spike a step, and the reset.

"""
_WAYS = (
    ("to them", "Our file, read by them", "`dpap-neuro export`, where needed with `--for`."),
    (
        "from them, live",
        "Their live network, read here",
        "`from_norse`, `from_snntorch`, `from_spikingjelly`, `from_sinabs`, `from_rockpool` in `dpap_neuro.exchange`.",
    ),
    ("from them, by file", "A file by their own exporter, read here", "Files say less than live networks."),
)
_BESIDE = """
## Beside NIR

| framework | way | result |
|---|---|---|
| lava-dl 0.6.0 | our network in its NETX loader: `dpap-neuro compile FILE.nir --out FILE.net` | equal: no spike differs from our integer simulator, chains of all kinds, N-MNIST networks and 40 random ones (`tests/lavadl`, in CI); what NETX cannot hold, such as a reset by subtraction, is refused |
| lava-dl | its NETX files here: `simulate`, `cores`, `inspect` | equal: its recorded Loihi 2 run without a difference (`simulate network.net --input-bias input_bias.npy --steps 15 --expect output.npy`); sigma-delta networks are refused by that name |
| Nengo 4.1.0, NengoLoihi 1.1.0 | both ways | not tested: neither package reads or writes NIR; the memory format of `loihi1.toml` is NengoLoihi's |
"""


def table(found: list[dict[str, Any]]) -> str:
    """Markdown; found: all results of all peers."""
    versions = ", ".join(
        packages[0].replace("==", " ") if packages else f"{name} 1.1.0" for name, packages in PEERS.items()
    )
    by_hand = ", ".join(packages[0].replace("==", " ") for packages in BY_HAND.values())
    parts = [
        _HEAD
        + f"Versions: {versions}. By hand and not in CI: {by_hand}; `python tests/interop/results.py spyx "
        "tests/interop/spyx.json`, in an environment that has it, makes its rows again.\n"
    ]
    for way, title, how in _WAYS:
        rows = [r for r in found if r["way"] == way]
        parts.append(f"\n## {title}\n\n{how}\n")
        parts.append(_grid(rows) if way == "to them" else _lists(rows))
    return "".join([*parts, _BESIDE])


def _grid(rows: list[dict[str, Any]]) -> str:
    peers = list(dict.fromkeys(r["peer"] for r in rows))
    cells = {(r["row"], r["peer"]): r for r in rows}
    reasons: dict[str, int] = {}
    lines = [f"\n| network | {' | '.join(peers)} |", "|---|" + "---|" * len(peers)]
    for row in dict.fromkeys(r["row"] for r in rows):
        shown = []
        for peer in peers:
            cell = cells[row, peer]
            text = cell["result"]
            if cell["why"]:
                text += f" [{reasons.setdefault(_reason(cell['why']), len(reasons) + 1)}]"
            shown.append(text)
        lines.append(f"| {row} | {' | '.join(shown)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join(lines) + "\n\n" + "\n".join(notes) + "\n"


def _lists(rows: list[dict[str, Any]]) -> str:
    lines = ["\n| framework | network | result | why |", "|---|---|---|---|"]
    lines += [f"| {r['peer']} | {r['row']} | {r['result']} | {_reason(r['why'])} |" for r in rows]
    return "\n".join(lines) + "\n"


def _reason(why: str) -> str:
    return why.replace("|", "/").replace("\n", " ")


if __name__ == "__main__":
    out, *files = sys.argv[1:]
    files += [str(Path(__file__).with_name(f"{name}.json")) for name in BY_HAND]
    results = [r for file in files for r in json.loads(Path(file).read_text())]
    Path(out).write_text(table(results))
