"""What compiled loops are made of: values at an address, vectors, bits."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import float64, int32, njit, types
from numba.core import cgutils
from numba.extending import intrinsic


def cast_to(kind):  # type: ignore[no-untyped-def]
    """A function of compiled code: an address as a pointer to `kind`."""
    pointer = types.CPointer(kind)

    @intrinsic
    def cast(typingctx, address):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return builder.inttoptr(args[0], context.get_value_type(pointer))

        return pointer(types.int64), codegen

    return cast


@intrinsic
def prefetch(typingctx, address):  # type: ignore[no-untyped-def]
    """Ask for the cache line at an address that will be read soon."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        word = ir.IntType(32)
        at = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [at.type, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # To be read, kept in all caches, data.
        builder.call(function, [at, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.none(types.int64), codegen


@njit(inline="always")
def quotient(a, inverse):
    """a // b for 0 <= a < 2**31 and b from 1 on, inverse: 1 / b in float64. (a + 1 / 2) / b is at least 1 / (2 b) from the next whole
    number, and off by less than a / b * 2**-51."""
    return int32((float64(a) + 0.5) * inverse)


def adding(lanes: int, bits: int = 32, floats: bool = False) -> Any:
    """A function of compiled code: so many 16-bit weights at an address are added to as many sums of so many bits at another, in vectors; or
    float64 to float64. A loop would be compiled to vectors, too, but each short run would go through its checks and its rest."""

    @intrinsic
    def add(typingctx, sums, weights):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            kinds = (ir.DoubleType(), ir.DoubleType()) if floats else (ir.IntType(bits), ir.IntType(16))
            wide, narrow = (ir.VectorType(kind, lanes) for kind in kinds)
            to = builder.inttoptr(args[0], wide.as_pointer())
            sums = builder.load(to, align=8 if floats else bits // 8)
            added = builder.load(builder.inttoptr(args[1], narrow.as_pointer()), align=8 if floats else 2)
            total = builder.fadd(sums, added) if floats else builder.add(sums, builder.sext(added, wide))
            builder.store(total, to, align=8 if floats else bits // 8)
            return context.get_dummy_value()

        return types.none(types.int64, types.int64), codegen

    return add


@njit(inline="always")
def add_run(sums, weights, n):  # type: ignore[no-untyped-def]
    """n weights, int16 at an address, added to n sums, int32 at another."""
    s = 0
    while s + 64 <= n:
        _add_64(sums + 4 * s, weights + 2 * s)
        s += 64
    while s + 16 <= n:
        _add_16(sums + 4 * s, weights + 2 * s)
        s += 16
    if s + 8 <= n:
        _add_8(sums + 4 * s, weights + 2 * s)
        s += 8
    if s + 4 <= n:
        _add_4(sums + 4 * s, weights + 2 * s)
        s += 4
    to, ww = _int32_at(sums), _int16_at(weights)
    for i in range(s, n):
        to[i] = int32(to[i] + ww[i])


_int32_at, _int16_at = cast_to(types.int32), cast_to(types.int16)
_add_64, _add_16, _add_8, _add_4 = (adding(lanes) for lanes in (64, 16, 8, 4))


def not_zero(bits: int) -> Any:
    """A function of compiled code: of 512 / bits integers at an address, bit i is set where integer i is not 0."""
    lanes = 512 // bits

    @intrinsic
    def mask(typingctx, address):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            kind = ir.VectorType(ir.IntType(bits), lanes)
            found = builder.load(builder.inttoptr(args[0], kind.as_pointer()), align=bits // 8)
            some = builder.icmp_signed("!=", found, ir.Constant(kind, None))
            whole = builder.bitcast(some, ir.IntType(lanes))
            return whole if lanes == 64 else builder.zext(whole, ir.IntType(64))

        return types.int64(types.int64), codegen

    return mask


def _lowest(typingctx, bits):  # type: ignore[no-untyped-def]
    """The place of the lowest bit of a number that is not 0."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


lowest_bit: Any = intrinsic(_lowest)
