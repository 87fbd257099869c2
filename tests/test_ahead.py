"""Loops that run without Numba: the same results as by Numba, what cannot run so, and what is kept on disk."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from hardware import ahead
from hardware.ahead import Loops
from hardware.network import connectivity
from hardware.network.integer import (
    ConvProjection,
    DenseProjection,
    InputPopulation,
    Network,
    Population,
    SparseProjection,
)
from hardware.placement import packing, place

ROOT = Path(__file__).parents[1]
linked = pytest.mark.skipif(ahead.linker() is None, reason="no machine code is linked on this system")
OWN = """
import numpy as np
from hardware.compiled import jit

loop = jit(error_model="numpy")

@loop
def _square(x):
    return x * x

@loop
def dot(a, b, scale):
    total = 0.0
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            total += _square(a[i, j]) * b[j]
    return total * scale

@loop
def mark(numbers, marks):
    for n in numbers:
        marks[n] = True

@loop
def allocates(numbers):
    return np.zeros(len(numbers) + 1).size

@loop
def raises(numbers):
    if len(numbers) > 3:
        raise ValueError("too many")
    return len(numbers)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Loops of a module of this test's own."""
    (tmp_path / "loops_of_a_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ahead, "folder_of", lambda source: tmp_path)
    importlib.invalidate_caches()

    def make() -> Loops:
        loops = Loops("loops_of_a_test")
        loops("dot", "d", "**i", "*q", "d")
        loops("mark", "", "*i", "*?")
        loops("allocates", "q", "*q")
        loops("raises", "q", "*q")
        return loops

    yield make
    sys.modules.pop("loops_of_a_test", None)


def dot_of(loops):
    a, b = np.arange(12, dtype=np.int32).reshape(3, 4), np.array([1, -2, 3, 4])
    assert loops.loops["dot"](a, b, 0.5) == 0.5 * float((a.astype(float) ** 2 @ b).sum())
    marks = np.zeros(5, np.bool_)
    loops.loops["mark"](np.array([1, 4], np.int32), marks)
    assert marks.tolist() == [False, True, False, False, True]
    bound = loops.loops["mark"].bound(..., marks)
    bound(np.array([0], np.int32))
    assert marks.tolist() == [True, True, False, False, True]


@linked
def test_what_allocates_or_raises_is_run_by_numba(own):
    loops = own()
    assert set(loops.found()) == {"dot", "mark"}
    dot_of(loops)
    assert loops.loops["allocates"](np.arange(3)) == 4
    assert loops.loops["raises"](np.arange(3)) == 3
    with pytest.raises(ValueError, match="too many"):
        loops.loops["raises"](np.arange(4))


def test_where_no_machine_code_is_linked_numba_runs_all(own, monkeypatch):
    monkeypatch.setattr(ahead, "linker", lambda: None)
    loops = own()
    assert loops.found() == {}
    dot_of(loops)


@pytest.mark.parametrize("name", ["NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK"])
def test_loops_are_not_linked_where_somebody_looks_for_an_error(name, monkeypatch):
    linked = ahead.linker() is not None
    monkeypatch.setenv(name, "1")
    assert ahead.linker() is None
    monkeypatch.setenv(name, "0")
    assert (ahead.linker() is not None) == linked
    monkeypatch.setattr(ahead, "_LLVM", ("what_llvmlite_never_had",))
    assert ahead.linker() is None


@linked
@pytest.mark.parametrize("error", [AttributeError("no such pass"), RuntimeError("no such target")])
def test_an_llvmlite_that_has_changed_leaves_all_to_numba(own, monkeypatch, error):
    def changed(*given):
        raise error

    monkeypatch.setattr(ahead, "_machine_code", changed)
    loops = own()
    assert loops.found() == {}
    dot_of(loops)


def test_a_module_without_a_place_for_machine_code_is_run_by_numba(own, monkeypatch):
    monkeypatch.setattr(ahead, "folder_of", lambda source: None)
    loops = own()
    assert loops.found() == {}
    dot_of(loops)


@linked
def test_machine_code_is_kept_and_made_anew_where_it_is_not_whole(own, tmp_path, monkeypatch):
    made = []
    machine_code = ahead._machine_code
    monkeypatch.setattr(
        ahead, "_machine_code", lambda *given: made.append(given[1].name) or machine_code(*given)
    )
    dot_of(own())
    (kept,) = tmp_path.glob("*.loops")
    first, whole = list(made), kept.read_bytes()
    assert set(first) == {"dot", "mark", "allocates", "raises"}
    dot_of(own())
    assert made == first
    for broken in (b"", whole[:-100], whole[:200] + b"x" + whole[201:]):
        kept.write_bytes(broken)
        made.clear()
        dot_of(own())
        found = ahead._read(kept)
        assert made == first and found is not None and set(found) == set(first)
    # Where nothing can be written, it is as if it were kept.
    kept.unlink()
    monkeypatch.setattr(ahead, "_write", lambda path, code: None)
    dot_of(own())
    assert not kept.exists()


def test_arrays_of_another_kind_are_refused(own):
    loops = own()
    dot, mark = loops.loops["dot"], loops.loops["mark"]
    a, b = np.ones((3, 4), np.int32), np.ones(4, np.int64)
    for bad in (a.astype(np.int64), a[0]):
        with pytest.raises(TypeError, match="expected int32, 2"):
            dot(bad, b, 1.0)
    bound = mark.bound(..., np.zeros(3, np.bool_))
    for bad in (np.zeros(1, np.int64), np.zeros((1, 1), np.int32)):
        with pytest.raises(TypeError, match="expected int32, 1"):
            bound(bad)
    if ahead.linker() is not None:
        with pytest.raises(TypeError, match="C order"):
            dot(np.ones((3, 8), np.int32)[:, ::2], b, 1.0)
    frozen = np.ones((3, 4), np.int32)
    frozen.setflags(write=False)
    assert dot(frozen, b, 1.0) == 12.0 == dot(a, b, 1.0)
    assert dot(np.zeros((0, 4), np.int32), b, 1.0) == 0.0


@linked
def test_every_loop_of_placement_is_linked():
    for loops in (packing.LOOPS, connectivity.LOOPS):
        assert set(loops.found()) == set(loops.loops)


def mixed_network(seed: int) -> Network:
    """Convolved, dense, sparse; some repeated synapses, some zero."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return rng.integers(-10, 10, shape, dtype=np.int16) * np.int16(2) * (rng.random(shape) < 0.5)

    degree = rng.integers(0, 9, 96)
    indptr = np.concatenate([[0], np.cumsum(degree)])
    post = rng.integers(0, 60, indptr[-1]).astype(np.int32)
    return Network(
        (InputPopulation("in", (2, 8, 8)),),
        (Population("conv", (6, 4, 4)), Population("sparse", (60,)), Population("out", (9,))),
        (
            ConvProjection("in", "conv", weights(6, 2, 3, 3), stride=(2, 2), padding=(1, 1)),
            SparseProjection("conv", "sparse", indptr, post, weights(len(post))),
            DenseProjection("sparse", "out", weights(9, 60)),
        ),
        ("out",),
    )


@linked
@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_placements_are_those_that_numba_makes(chip, monkeypatch):
    network = mixed_network(len(chip))
    without = place(network, chip, effort=0.01)
    for loops in (packing.LOOPS, connectivity.LOOPS):
        assert loops.found()
        monkeypatch.setattr(loops, "_found", {})
        for loop in loops.loops.values():
            monkeypatch.setattr(loop, "_run", None)
            monkeypatch.setattr(loop, "_by_numba", False)
    by_numba = place(network, chip, effort=0.01)
    assert packing.LOOPS.loops["reach_taps"]._by_numba
    for field in fields(without):
        a, b = getattr(without, field.name), getattr(by_numba, field.name)
        if isinstance(a, dict) and field.name != "full":
            assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        elif isinstance(a, np.ndarray):
            assert np.array_equal(a, b)
        else:
            assert a == b


@linked
def test_a_network_is_placed_without_numba():
    code = (
        "import sys, test_ahead\nfrom hardware.placement import place\n"
        "placement = place(test_ahead.mixed_network(1), 'loihi1', effort=0.01)\n"
        "print(placement.cores, placement.lower_bound, 'numba' in sys.modules)"
    )
    place(mixed_network(1), "loihi1", effort=0.01)  # so that machine code is there
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "False", done.stdout
