"""Which runs a comparison of pruners is made of: their names, learning rates of their own, and parts that run apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpap_neuro.errors import InputError
from dpap_neuro.pruning import parse_pruner, with_choices

# A run: pruner, sparsity, seed.
Planned = tuple[str, float, int]

MOST_SHARDS = 100_000

# What a pruner's own learning rate is called behind its colon.
RATE = "learning_rate"

# What a table adds to the name of a pruner that removes channels and neurons.
_STRUCTURED = " structured"


@dataclass(frozen=True)
class Shard:
    """Part `number`, from 1, of a sweep that is divided into `of`: every of-th run. Each part has a table of its own, so that
    parts may run at once, on several machines that share a folder."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of "2/8". Raises InputError for anything else."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of) <= MOST_SHARDS):
            raise InputError(f"shard: found {text!r}, expected NUMBER/OF such as 2/8, from 1/8 to 8/8")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number} of {self.of}"

    def folder(self, whole: Path) -> Path:
        """Its own, inside that of the whole sweep."""
        return whole / f"shard-{self.number}-of-{self.of}"

    def part(self, planned: Sequence[Planned]) -> list[Planned]:
        return list(planned[self.number - 1 :: self.of])


def is_dense(pruner: str) -> bool:
    """Whether nothing is pruned, at whatever learning rate."""
    return pruner.partition(":")[0].strip() == "none"


def own_rate(text: str) -> tuple[str, float | None]:
    """A pruner of the command line, or of a table, without the learning rate that it may say besides its options, and that rate.

    Raises InputError for a rate that is no number above 0, or said twice.
    """
    plain = text.removesuffix(_STRUCTURED)
    name, _, rest = plain.partition(":")
    options = [part for part in rest.split(",") if part.strip()]
    said = [part for part in options if part.partition("=")[0].strip().replace("-", "_") == RATE]
    if not said:
        return text, None
    if len(said) > 1:
        raise InputError(f"pruner {name}: found {RATE} twice, expected it once")
    value = said[0].partition("=")[2].strip()
    try:
        rate = float(value)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise InputError(f"pruner {name}: found {RATE} {value!r}, expected a number above 0")
    others = ",".join(part for part in options if part not in said)
    return (f"{name}:{others}" if others else name) + text[len(plain) :], rate


def at_rates(pruner: str, rates: Sequence[float]) -> list[str]:
    """A pruner once at each learning rate; as it is where it says its own, or where there is one rate."""
    if len(rates) < 2 or own_rate(pruner)[1] is not None:
        return [pruner]
    return [with_choices(pruner, **{RATE: f"{rate:g}"}) for rate in rates]


def label(pruner: str, structured: bool) -> str:
    """A pruner's name in a table."""
    return pruner + _STRUCTURED if structured and not is_dense(pruner) else pruner


def labelled(run: Planned, structured: bool) -> Planned:
    """A run as a table calls it."""
    name, share, seed = run
    return label(name, structured), share, seed


def plan(pruners: Iterable[str], sparsities: Iterable[float], seeds: Iterable[int]) -> list[Planned]:
    """(pruner, sparsity, seed) of every run; `none` runs once per seed. A pruner may have options behind its name, see
    `parse_pruner`, and a learning rate of its own, see `own_rate`. Raises InputError for an unknown pruner or option.
    """
    pruners, sparsities, seeds = dict.fromkeys(pruners), dict.fromkeys(sparsities), list(seeds)
    for name in pruners:
        parse_pruner(own_rate(name)[0])
    for share in sparsities:
        if not 0 <= share < 1:
            raise InputError(
                f"sparsity: found {share}, expected 0 to below 1 (share of the parameters removed)"
            )
    return [
        (name, share, seed)
        for seed in seeds
        for name in pruners
        for share in ((0.0,) if is_dense(name) else sparsities)
    ]
