"""The fewest cores that a small network fits on, found exactly by OR-tools' CP-SAT: for chips that limit neurons and axons."""

from __future__ import annotations

import math
from collections import defaultdict

from oracle_placement import Unrolled


def fits_on(network, chip, cores, seconds=60.0):
    """Whether a placement on `cores` cores exists; None where the solver could not tell in time.

    Every pre neuron must have an axon of its own, and memory must not be short: neither is in the model.
    """
    from ortools.sat.python import cp_model

    unrolled = Unrolled(network, chip)
    model = cp_model.CpModel()
    neurons = [(name, n) for name in unrolled.populations for n in range(unrolled.size[name])]
    on = {
        (neuron, c): model.new_bool_var("") if c <= k else 0
        for k, neuron in enumerate(neurons)
        for c in range(cores)
    }
    for neuron in neurons:
        model.add_exactly_one(on[neuron, c] for c in range(cores))
    axons_in, axons_out = ([[] for _ in range(cores)] for _ in range(2))
    for projection, found in unrolled.projections:
        assert unrolled.atoms(projection) == 1
        targets = defaultdict(set)
        for pre, post, _, _ in found:
            targets[pre].add(post)
        for pre, posts in targets.items():
            for c in range(cores):
                heard = model.new_bool_var("")
                for post in posts:
                    model.add_implication(on[(projection.target, post), c], heard)
                axons_in[c].append(heard)
                if projection.source not in unrolled.populations or math.isinf(chip.axons_out_per_core):
                    continue
                for home in range(cores):
                    sent = model.new_bool_var("")
                    model.add_bool_or(heard.negated(), _negated(on[(projection.source, pre), home]), sent)
                    axons_out[home].append(sent)
    for c in range(cores):
        for used, limit in (
            ([on[neuron, c] for neuron in neurons], chip.neurons_per_core),
            (axons_in[c], chip.axons_in_per_core),
            (axons_out[c], chip.axons_out_per_core),
        ):
            if used and not math.isinf(limit):
                model.add(sum(used) <= int(limit))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 2
    solver.parameters.max_time_in_seconds = seconds
    status = solver.solve(model)
    return {cp_model.OPTIMAL: True, cp_model.FEASIBLE: True, cp_model.INFEASIBLE: False}.get(status)


def _negated(variable):
    return 1 if isinstance(variable, int) else variable.negated()


def fewest_cores(network, chip, bound, found, seconds=60.0):
    """(fewest cores, whether proven), from a bound and a placement that was found on `found` cores (inf: on none)."""
    if math.isinf(found):
        neurons = sum(math.prod(p.shape) for p in network.populations)
        known = [cores for cores in range(bound, neurons + 1) if fits_on(network, chip, cores, seconds)][:1]
        return (known[0], True) if known else (found, True)
    # What fits on fewer cores fits on one fewer.
    while found > bound:
        fits = fits_on(network, chip, found - 1, seconds)
        if not fits:
            return found, fits is False
        found -= 1
    return found, True
