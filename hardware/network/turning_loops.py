"""The compiled loop of `hardware.network.connectivity.by_post`; runs by `hardware.ahead`: nothing is allocated here, and nothing raises."""

from __future__ import annotations

import numpy as np

from hardware.compiled import jit


@jit(error_model="numpy")
def turned(indptr, post, there, last, starts, cursor, pre):
    """Counting sort of CSR into CSC, leaving out synapses that are not `there` and repeated pairs.

    starts: zero before; last, cursor: room for a number of each post neuron; pre: for one of each synapse.
    """
    n_post = len(cursor)
    # Where post neurons rise there is no pair twice: what is known of each, which is in no cache, need not be looked at.
    rising = True
    for j in range(len(indptr) - 1):
        for k in range(indptr[j] + 1, indptr[j + 1]):
            rising &= post[k] > post[k - 1]
    last[:] = -1
    for j in range(len(indptr) - 1):
        for k in range(indptr[j], indptr[j + 1]):
            i = np.uint32(post[k])
            if there[k] and (rising or last[i] != j):
                if not rising:
                    last[i] = j
                starts[i + 1] += 1
    for n in range(n_post):
        starts[n + 1] += starts[n]
        cursor[n] = starts[n]
    last[:] = -1
    for j in range(len(indptr) - 1):
        for k in range(indptr[j], indptr[j + 1]):
            i = np.uint32(post[k])
            if there[k] and (rising or last[i] != j):
                if not rising:
                    last[i] = j
                pre[cursor[i]] = j
                cursor[i] += 1
