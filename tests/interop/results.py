"""What becomes of each row with one framework, in its own environment: `python tests/interop/results.py PEER [OUT.json]`.

Three ways: this project's file read there, a live network of theirs read here, a file by their own exporter read here. Each ends as

- equal: no spike differs; converted: none does with `export --for`, and a plain `export` prints a line that names the framework;
- said: spikes differ, and a line that every command prints says what was assumed;
- refused: by one line of ours (`why`), or by their exporter or reader;
- silent: spikes differ without a word. Then this ends with status 1.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import nir
import ours
import theirs
import torch
from readers import READERS

from dpap_neuro.errors import InputError
from dpap_neuro.exchange.dialects import as_nir, for_peer
from dpap_neuro.exchange.nir_export import write_nir
from dpap_neuro.exchange.plain import read_plainly
from hardware.errors import HardwareError
from hardware.graph.assumed import assumptions
from hardware.graph.parsing import read_graph


@dataclass(frozen=True)
class Result:
    """way: "to them", "from them, live" or "from them, by file". differing, spikes: of the network that ran there."""

    peer: str
    way: str
    row: str
    result: str
    differing: int = 0
    spikes: int = 0
    why: str = ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def to_them(peer: str, name: str, reset: str, folder: Path) -> Result:
    graph = ours.graph(name, reset)
    row = name if reset == "zero" else f"{name}, reset by subtraction"
    x = ours.recordings(*graph.input_shape["input"])
    here = ours.spikes(graph, x)
    total = int(here.sum())
    assert total > 0, row
    as_it_is = read_plainly(graph)
    try:
        made, _ = for_peer(graph, peer)
    except InputError as error:
        assert peer in as_it_is.refused
        return Result(peer, "to them", row, "refused", 0, total, str(error))
    found = {}
    for way, written in (("converted", made), ("equal", as_nir(graph))):
        path = folder / f"{way}.nir"
        write_nir(written, path)
        try:
            with quiet():
                found[way] = ours.differing(READERS[peer](path, x, ours.DT, reset), here)
        except Exception as error:
            if way == "converted":
                return Result(
                    peer, "to them", row, "silent", total, total, f"{type(error).__name__}: {error}"
                )
    result = "equal" if found.get("equal") == 0 else "converted" if found["converted"] == 0 else "silent"
    if (result == "converted" and peer not in as_it_is.changed) or (
        found.get("equal") != 0 and peer in as_it_is.same
    ):
        result = "silent"
    return Result(peer, "to them", row, result, found["converted"], total)


def live(peer: str, row: theirs.Row, there: torch.Tensor) -> Result:
    total = int(there.sum())
    try:
        with quiet():
            graph = row.live()
    except InputError as error:
        return Result(peer, "from them, live", row.name, "refused", 0, total, str(error))
    apart = ours.differing(there, ours.spikes(graph, row.x))
    return Result(peer, "from them, live", row.name, "silent" if apart else "equal", apart, total)


def by_file(peer: str, row: theirs.Row, there: torch.Tensor, folder: Path) -> Result:
    total = int(there.sum())
    path = folder / "theirs.nir"

    def result(kind: str, apart: int = 0, why: str = "") -> Result:
        return Result(peer, "from them, by file", row.name, kind, apart, total, why.replace(f"{path}: ", ""))

    try:
        with quiet():
            exported = row.export()
            try:
                nir.write(path, exported)
            except Exception:
                nir.write(path, exported, compression=None)
    except Exception as error:
        return result(
            "refused", 0, f"its exporter: {type(error).__name__}: {' '.join(str(error).split())[:80]}"
        )
    try:
        graph = read_graph(path)
        said = assumptions(graph)
        apart = ours.differing(there, ours.spikes(graph, row.x))
    except HardwareError as error:
        return result("refused", 0, str(error))
    if not apart:
        return result("equal")
    return result("said" if said else "silent", apart, "; ".join(said))


def results(peer: str) -> list[Result]:
    """All rows of one framework, which must be installed here."""
    torch.manual_seed(0)
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found += [to_them(peer, row, reset, folder) for row, reset in ours.ROWS]
        for row in theirs.ROWS[peer]():
            try:
                with quiet():
                    there = row.run()
            except Exception as error:
                why = f"does not run there: {type(error).__name__}: {error}"
                found.append(Result(peer, "from them, live", row.name, "refused", 0, 0, why))
                continue
            assert there.sum() > 0, f"{row.name}: no spike to compare"
            found += [live(peer, row, there), by_file(peer, row, there, folder)]
    return found


def main(peer: str, out: str | None = None) -> int:
    found = results(peer)
    for r in found:
        print(f"{r.result:9} {r.way:19} {r.row:50} {r.differing} of {r.spikes} {r.why[:90]}")
    if out is not None:
        Path(out).write_text(json.dumps([asdict(r) for r in found], indent=1))
    return int(any(r.result == "silent" for r in found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
