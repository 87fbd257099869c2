"""Compiled loops that run without Numba: to import it and have it ready for a first kernel takes longer than most short commands.

A `Loop` names a function of a module of loops and the types of what it is given. Where Numba has compiled it once (`numba.cfunc`), its machine
code is kept beside Numba's own (`hardware.compiled`), for this processor, and later processes link it by llvmlite alone, which takes some
milliseconds. That works for loops that call nothing outside, so that they can neither allocate nor raise: results and scratch are given to them. Where
it has not been tried (other systems than Linux on x86), and of a loop that does call something, Numba's function is called as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardware.compiled import folder_of
from hardware.errors import HardwareError

# Of a type by its letter, as NumPy has them: what ctypes and Numba call it.
_TYPES: dict[str, tuple[Any, str]] = {
    "?": (ctypes.c_bool, "boolean"),
    "i": (ctypes.c_int32, "int32"),
    "q": (ctypes.c_int64, "int64"),
    "Q": (ctypes.c_uint64, "uint64"),
    "d": (ctypes.c_double, "float64"),
}
# What machine code may call: these are found in any process.
_THERE = re.compile(r"llvm\.|mem(cpy|set|move)$")
_NAME = re.compile(r'@(?:"([^"]+)"|([\w.$-]+))')
_MAKING = threading.RLock()
# A file of machine code is read where it was written so; of LLVM these are used, beside what any version has.
_KEPT_AS = 1
_LLVM = ("create_pass_builder", "create_mcjit_compiler", "ObjectFileRef")


def _address(array: np.ndarray) -> int:
    """Of its first element; TypeError where it is not in C order. By `array.ctypes` it takes as long as the rest of a call."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError):  # read-only, or empty, or not in a row
        if not array.flags.c_contiguous:
            raise TypeError("a loop takes arrays in C order") from None
        return array.ctypes.data


class Loops:
    """The loops of a module that imports Numba, which is not imported for them where their machine code is kept.

    loops = Loops("package.module"); count = loops("count", "q", "*i", "**q", "d") is its function `count`, which returns an int64 ("" nothing) and takes an
    int32 array, an int64 array of two axes, and a float64. Arrays are in C order and of just that type: TypeError else.
    """

    def __init__(self, module: str):
        self.module = module
        self.loops: dict[str, Loop] = {}
        self._found: dict[str, Callable[..., Any]] | None = None
        # What holds the machine code in memory.
        self.engine: Any = None

    def __call__(self, name: str, returns: str, *takes: str) -> Loop:
        self.loops[name] = Loop(self, name, returns, takes)
        return self.loops[name]

    def found(self) -> dict[str, Callable[..., Any]]:
        """What runs each loop, of addresses, lengths and numbers; those that Numba has to run are left out."""
        if self._found is None:
            with _MAKING:
                if self._found is None:
                    llvm = linker()
                    try:
                        self._found = {} if llvm is None else _linked(self, llvm)
                    except (AttributeError, RuntimeError):  # of an llvmlite that is newer than this
                        self._found = {}
        return self._found


class Loop:
    """One of `Loops`."""

    def __init__(self, of: Loops, name: str, returns: str, takes: Sequence[str]):
        self.of, self.name, self.returns, self.takes = of, name, returns, tuple(takes)
        self._kinds = [(len(code) - 1, np.dtype(code[-1])) for code in takes]
        self._run: Callable[..., Any] | None = None
        self._by_numba = False

    def __call__(self, *given: Any) -> Any:
        run = self._run or self._find()
        return run(*self._flat(given, self._kinds))

    def bound(self, *given: Any) -> Bound:
        """The loop with all of its arguments but one of a single axis, `...`, looked at once: of arrays that stay where they are."""
        run = self._run or self._find()
        at = next(n for n, value in enumerate(given) if value is ...)
        (axes, dtype), kinds = self._kinds[at], self._kinds
        assert axes == 1
        before, after = self._flat(given[:at], kinds[:at]), self._flat(given[at + 1 :], kinds[at + 1 :])
        return Bound(run, dtype, self._by_numba, tuple(before), tuple(after), (self, given))

    def _flat(self, given: Sequence[Any], kinds: Sequence[tuple[int, np.dtype]]) -> list[Any]:
        """What the function takes: of an array its address and lengths."""
        flat: list[Any] = []
        for value, (axes, dtype) in zip(given, kinds, strict=True):
            if not axes:
                flat.append(float(value) if dtype.kind == "f" else int(value))
            elif value.dtype != dtype or value.ndim != axes:
                raise TypeError(
                    f"{self.name}: an array of {value.dtype} with {value.ndim} axes; expected {dtype}, {axes}"
                )
            elif self._by_numba:
                flat.append(value)
            else:
                flat.append(_address(value))
                flat += value.shape
        return flat

    def _find(self) -> Callable[..., Any]:
        run = self.of.found().get(self.name)
        if run is None:
            run = getattr(importlib.import_module(self.of.module), self.name)
            self._by_numba = True
        self._run = run
        return run

    def prototype(self) -> Any:
        """As ctypes has it."""
        kinds: list[Any] = []
        for code in self.takes:
            axes = len(code) - 1
            kinds += [ctypes.c_void_p] + [ctypes.c_int64] * axes if axes else [_TYPES[code][0]]
        return ctypes.CFUNCTYPE(_TYPES[self.returns][0] if self.returns else None, *kinds)


class Bound:
    """See `Loop.bound`; called with the array that is missing."""

    __slots__ = ("_after", "_before", "_by_numba", "_dtype", "_kept", "_run")

    def __init__(
        self,
        run: Callable[..., Any],
        dtype: np.dtype,
        by_numba: bool,
        before: tuple,
        after: tuple,
        kept: tuple,
    ):
        self._run, self._dtype, self._by_numba = run, dtype, by_numba
        # kept: what holds the code, and the arrays whose addresses are in what is before and after.
        self._before, self._after, self._kept = before, after, kept

    def __call__(self, array: np.ndarray) -> Any:
        if array.dtype != self._dtype or array.ndim != 1:
            raise TypeError(f"an array of {array.dtype} with {array.ndim} axes; expected {self._dtype}, 1")
        if self._by_numba:
            return self._run(*self._before, array, *self._after)
        return self._run(*self._before, _address(array), len(array), *self._after)


def linker() -> Any | None:
    """llvmlite's binding, where machine code has been linked by it and nobody looks for an error in a loop."""
    looked_at = any(os.environ.get(name, "0") != "0" for name in ("NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK"))
    if sys.platform != "linux" or platform.machine() != "x86_64" or looked_at:
        return None
    import llvmlite.binding as llvm

    # Versions before 0.44 lack the first.
    return llvm if all(hasattr(llvm, name) for name in _LLVM) else None


def _linked(loops: Loops, llvm: Any) -> dict[str, Callable[..., Any]]:
    """Machine code that is kept, or made and kept now."""
    spec = importlib.util.find_spec(loops.module)
    assert spec is not None
    folder = folder_of(Path(spec.origin).resolve()) if spec.origin and Path(spec.origin).is_file() else None
    if folder is None:  # made for each process anew it would take longer than Numba
        return {}
    from llvmlite import __version__

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=cpu, features=features, opt=3, codemodel="jitdefault", jit=True
    )
    signatures = [(loop.name, loop.returns, *loop.takes) for loop in loops.loops.values()]
    told = json.dumps([_KEPT_AS, __version__, cpu, features, signatures])
    kept = folder / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.loops"
    code = _read(kept)
    if code is None:
        code = {loop.name: _machine_code(loops.module, loop, machine, llvm) for loop in loops.loops.values()}
        _write(kept, code)
    return _runs(loops, code, machine, llvm)


def _runs(
    loops: Loops, code: dict[str, tuple[str, bytes]], machine: Any, llvm: Any
) -> dict[str, Callable[..., Any]]:
    if not any(binary for _, binary in code.values()):
        return {}
    loops.engine = engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for _, binary in code.values():
        if binary:
            engine.add_object_file(llvm.ObjectFileRef.from_data(binary))
    engine.finalize_object()
    return {
        name: loops.loops[name].prototype()(engine.get_function_address(symbol))
        for name, (symbol, binary) in code.items()
        if binary
    }


def _machine_code(module: str, loop: Loop, machine: Any, llvm: Any) -> tuple[str, bytes]:
    """(symbol, object file) of a loop; nothing, where it calls what is in no other process."""
    from numba import carray, cfunc, types

    parameters, given, kinds = [], [], []
    for n, code in enumerate(loop.takes):
        axes, kind = len(code) - 1, getattr(types, _TYPES[code[-1]][1])
        lengths = [f"n{n}_{axis}" for axis in range(axes)]
        parameters += [f"a{n}", *lengths]
        given.append(f"carray(a{n}, ({', '.join(lengths)},))" if axes else f"a{n}")
        kinds += [types.CPointer(kind), *[types.int64] * axes] if axes else [kind]
    scope = {"carray": carray, "loop": getattr(importlib.import_module(module), loop.name)}
    exec(  # of nothing but the numbers above
        f"def {loop.name}({', '.join(parameters)}):\n    return loop({', '.join(given)})\n", scope
    )
    returns = getattr(types, _TYPES[loop.returns][1]) if loop.returns else types.void
    options: dict[str, Any] = {"boundscheck": False, "error_model": "numpy"}
    made = cfunc(returns(*kinds), **options)(scope[loop.name])
    whole = llvm.parse_assembly(made.inspect_llvm())
    # What is said about exceptions falls away once it is clear that the loop, which only this calls, raises none.
    for part in (*whole.functions, *whole.global_variables):
        if not part.is_declaration and part.name != made.native_name:
            part.linkage = "internal"
    whole.verify()
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(whole, passes)
    return made.native_name, b"" if _missing(whole, made.native_name) else machine.emit_object(whole)


def _missing(module: Any, symbol: str) -> set[str]:
    """What a function of a module uses, directly or not, that is neither there nor in every process."""
    parts = {part.name: part for part in (*module.functions, *module.global_variables)}
    seen: set[str] = set()
    waiting, missing = [symbol], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in parts:
            continue
        seen.add(name)
        if parts[name].is_declaration:
            if not _THERE.match(name):
                missing.add(name)
            continue
        waiting += [quoted or bare for quoted, bare in _NAME.findall(str(parts[name]))]
    return missing


def _read(path: Path) -> dict[str, tuple[str, bytes]] | None:
    """What `_write` wrote; None where it is not there or not whole."""
    try:
        digest, _, rest = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if hashlib.sha256(rest).hexdigest().encode() != digest:
        return None
    head, _, binaries = rest.partition(b"\n")
    found, at = {}, 0
    for name, symbol, size in json.loads(head):
        found[name] = symbol, binaries[at : at + size]
        at += size
    return found


def _write(path: Path, code: dict[str, tuple[str, bytes]]) -> None:
    head = json.dumps([(name, symbol, len(binary)) for name, (symbol, binary) in code.items()]).encode()
    rest = b"\n".join((head, b"".join(binary for _, binary in code.values())))
    digest = hashlib.sha256(rest).hexdigest().encode()
    from hardware.files.whole import write_stream

    with contextlib.suppress(HardwareError):  # of a disk that is full: made anew in the next process
        write_stream(path, lambda file: file.write(digest + b"\n" + rest))
