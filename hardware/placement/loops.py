"""The inner loops of placement: what a list of post neurons costs the core that holds them.

All kernels take the neurons of one population on one core in the order of their numbers on that core (`rank`).
Scratch arrays are per axon, that is per pre neuron or group of them: `lists`, int32 rows of the COUNT of synapses (zero
between calls), FIRST and LAST rank (a row of four, so that one cache line serves a synapse: waiting for it is most of the
time), `pattern` (a hash), `touched` (the axons with a synapse here, filled from the front).
`form` is (word bits, synapses per block, header bits, axon offsets), see `packing.form_of`; `widths` the chip's index widths.
They run by `hardware.ahead`, through `packing` and `bounds`: nothing is allocated here, results go to arrays that are given, and nothing raises.
"""

from __future__ import annotations

import numpy as np

from hardware.compiled import jit
from hardware.placement.packing import BLOCK

_loop = jit(error_model="numpy")

COUNT, FIRST, LAST = 0, 1, 2

# Tells the lists of one pattern and different parts of their numbers beyond the axon's offset apart: an odd 64-bit word.
_BEYOND = np.uint64(0x9E3779B97F4A7C15)


@_loop
def list_bits(n, bits, form):
    """Bits of n synapses of `bits` each, as `hardware.chip.memory.list_bits`."""
    word, block, header = form[0], form[1], form[2]
    full = n // block
    rest = n - full * block
    total = full * (-(-(block * bits + header) // word) * word)
    if rest:
        total += -(-(rest * bits + header) // word) * word
    return total


@_loop
def index_width(largest, widths):
    """The narrowest non-zero width that holds indices 0..largest."""
    for width in widths:
        if width > 0 and (1 << width) > largest:
            return width
    return widths[-1]


@_loop
def axon_bits(n, span, plain, width, form):
    """The smaller form of one axon: its whole span without indices, or its synapses with them."""
    indexed = list_bits(n, plain + width, form)
    if span * plain >= indexed:
        return indexed
    return min(list_bits(span, plain, form), indexed)


@_loop
def measure_rows(indptr, pre, neurons, plain, form, widths, lists, touched, found):
    """Dense or sparse; found: bits, axons in (the touched ones), synapses."""
    n = 0
    synapses = 0
    for rank in range(len(neurons)):
        i = neurons[rank]
        synapses += indptr[i + 1] - indptr[i]
        for k in range(indptr[i], indptr[i + 1]):
            # Unsigned, so that no place counted from the end is thought of: a tenth of the time.
            j = np.uint32(pre[k])
            count = lists[j, COUNT]
            if count == 0:
                touched[n] = j
                n += 1
                lists[j, FIRST] = rank
            lists[j, COUNT] = count + 1
            lists[j, LAST] = rank
    largest = 0
    for k in range(n):
        largest = max(largest, lists[np.uint32(touched[k]), LAST])
    width = index_width(largest, widths)
    bits = 0
    for k in range(n):
        j = np.uint32(touched[k])
        span = lists[j, LAST] - min(lists[j, FIRST], form[3] - 1) + 1
        bits += axon_bits(lists[j, COUNT], span, plain, width, form)
        lists[j, COUNT] = 0
    found[0], found[1], found[2] = bits, n, synapses


@_loop
def measure_groups(indptr, pre, neurons, plain, form, widths, lists, touched, group, atoms, found):
    """Dense or sparse with several pre neurons to an axon; found: bits, axons in (the touched ones), synapses.

    group: the axon of each pre neuron; atoms: how many pre neurons with a synapse anywhere each axon stands for. Its list
    is that of all of them: each synapse with its index, or the whole span for every atom.
    """
    n = 0
    synapses = 0
    for rank in range(len(neurons)):
        i = neurons[rank]
        synapses += indptr[i + 1] - indptr[i]
        for k in range(indptr[i], indptr[i + 1]):
            g = group[pre[k]]
            if lists[g, COUNT] == 0:
                touched[n] = g
                n += 1
                lists[g, FIRST] = rank
            lists[g, COUNT] += 1
            lists[g, LAST] = rank
    largest = 0
    for k in range(n):
        largest = max(largest, lists[touched[k], LAST])
    width = index_width(largest, widths)
    bits = 0
    for k in range(n):
        g = touched[k]
        span = lists[g, LAST] - min(lists[g, FIRST], form[3] - 1) + 1
        bits += axon_bits(lists[g, COUNT], atoms[g] * span, plain, width, form)
        lists[g, COUNT] = 0
    found[0], found[1], found[2] = bits, n, synapses


@_loop
def measure_taps(
    indptr,
    taps,
    geometry,
    share,
    neurons,
    plain,
    form,
    widths,
    lists,
    touched,
    atoms,
    pattern,
    rank_word,
    tap_word,
    kernel_bits,
    dead_pre,
    channel_ptr,
    channels,
    held,
    table,
    found,
):
    """Convolution; found: bits, axons in (the touched ones), synapses.

    taps: rows of (block of channels that share an axon, kernel row, kernel column, synapses), by output channel.
    share: 0 every axon stores its synapses; 1 axons whose synapses agree but for a shift of their offsets store them once; 2
    the core stores the kernels of the output channels it holds, `kernel_bits` each. A list's pattern is the sum over its taps of
    rank_word[rank - first rank] * tap_word[tap], both from `random_words`; other scratch as in `measure_groups`.
    dead_pre: pre neurons without a synapse, empty: none; channels channel_ptr[k]:channel_ptr[k + 1] are those of tap k. At a target
    that it has a synapse to, a list holds the weights of dead channels, too. held, table: room for what each output channel and, twice
    over and at least 16, each axon needs, a power of 2.
    """
    h_in, w_in, h_out, w_out = geometry[0], geometry[1], geometry[2], geometry[3]
    s_y, s_x, p_y, p_x, d_y, d_x = (
        geometry[4],
        geometry[5],
        geometry[6],
        geometry[7],
        geometry[8],
        geometry[9],
    )
    n = 0
    synapses = 0
    bits = 0
    area = h_out * w_out
    held[:] = False
    masked = len(dead_pre) > 0
    for rank in range(len(neurons)):
        i = neurons[rank]
        o = i // area
        y = (i - o * area) // w_out
        x = i - o * area - y * w_out
        if share == 2 and not held[o]:
            held[o] = True
            bits += kernel_bits[o]
        for k in range(indptr[o], indptr[o + 1]):
            in_y = y * s_y - p_y + taps[k, 1] * d_y
            in_x = x * s_x - p_x + taps[k, 2] * d_x
            if in_y < 0 or in_y >= h_in or in_x < 0 or in_x >= w_in:
                continue
            joined = taps[k, 3]
            if masked:
                for m in range(channel_ptr[k], channel_ptr[k + 1]):
                    joined -= dead_pre[(channels[m] * h_in + in_y) * w_in + in_x]
                if joined == 0:
                    continue
            g = (taps[k, 0] * h_in + in_y) * w_in + in_x
            if lists[g, COUNT] == 0:
                touched[n] = g
                n += 1
                lists[g, FIRST] = rank
                pattern[g] = 0
            lists[g, COUNT] += taps[k, 3]
            lists[g, LAST] = rank
            if share == 1:
                pattern[g] += rank_word[rank - lists[g, FIRST]] * tap_word[k]
            synapses += joined
    largest = 0
    for k in range(n):
        g = touched[k]
        if share == 1:
            if lists[g, FIRST] >= form[3]:
                beyond = lists[g, FIRST] // form[3]
                lists[g, FIRST] -= beyond * form[3]
                pattern[g] += np.uint64(beyond) * _BEYOND
            largest = max(largest, lists[g, LAST] - lists[g, FIRST])
        else:
            lists[g, FIRST] = min(lists[g, FIRST], form[3] - 1)
            largest = max(largest, lists[g, LAST])
    width = index_width(largest, widths)
    size = 16
    while size < 2 * n and share == 1:
        size *= 2
    table[:size] = 0
    for k in range(n):
        g = touched[k]
        fresh = share != 2
        if share == 1:
            key = pattern[g] | np.uint64(1)
            slot = np.int64(key >> np.uint64(1)) & (size - 1)
            while table[slot] != 0 and table[slot] != key:
                slot = (slot + 1) & (size - 1)
            fresh = table[slot] == 0
            table[slot] = key
        if fresh:
            bits += axon_bits(
                lists[g, COUNT], atoms[g] * (lists[g, LAST] - lists[g, FIRST] + 1), plain, width, form
            )
        lists[g, COUNT] = 0
    found[0], found[1], found[2] = bits, n, synapses


@_loop
def used_taps(indptr, taps, geometry, dead_pre, channel_ptr, channels, dead_post, used):
    """used: which taps make a synapse between two neurons that are not dead, anywhere; false before. Arguments of `measure_taps`."""
    h_in, w_in, h_out, w_out = geometry[0], geometry[1], geometry[2], geometry[3]
    s_y, s_x, p_y, p_x, d_y, d_x = (
        geometry[4],
        geometry[5],
        geometry[6],
        geometry[7],
        geometry[8],
        geometry[9],
    )
    for o in range(len(indptr) - 1):
        for k in range(indptr[o], indptr[o + 1]):
            for i in range(h_out * w_out):
                y = i // w_out
                in_y = y * s_y - p_y + taps[k, 1] * d_y
                in_x = (i - y * w_out) * s_x - p_x + taps[k, 2] * d_x
                if dead_post[o * h_out * w_out + i] or not (0 <= in_y < h_in and 0 <= in_x < w_in):
                    continue
                if len(dead_pre) == 0:
                    used[k] = True
                for m in range(channel_ptr[k], channel_ptr[k + 1] if len(dead_pre) else channel_ptr[k]):
                    used[k] |= not dead_pre[(channels[m] * h_in + in_y) * w_in + in_x]
                if used[k]:
                    break


@_loop
def group_taps(indptr, taps, atoms, channel_word, weight_word, lowest, count, word, grouped, starts, words):
    """Taps with the channels of an axon taken together: grouped, rows of (block of channels, kernel row, column, synapses) by output channel, in
    rising order; starts, their indptr; and in `words` one for each, the sum over its channels of channel_word[channel in the block] times
    weight_word[weight - lowest]. count, word: (blocks, rows, columns), zero before and after."""
    high, wide = count.shape[1], count.shape[2]
    n = 0
    for o in range(len(indptr) - 1):
        for k in range(indptr[o], indptr[o + 1]):
            block, y, x = taps[k, 0] // atoms, taps[k, 1], taps[k, 2]
            count[block, y, x] += 1
            word[block, y, x] += channel_word[taps[k, 0] % atoms] * weight_word[taps[k, 3] - lowest]
        for cell in range(count.size if indptr[o + 1] > indptr[o] else 0):
            block, y, x = cell // (high * wide), cell // wide % high, cell % wide
            if count[block, y, x]:
                grouped[n, 0] = block
                grouped[n, 1] = y
                grouped[n, 2] = x
                grouped[n, 3] = count[block, y, x]
                words[n] = word[block, y, x]
                count[block, y, x] = 0
                word[block, y, x] = 0
                n += 1
        starts[o + 1] = n


@_loop
def reach_rows(indptr, pre, neurons, seen, touched):
    """Pre neurons with a synapse onto `neurons`, into the front of `touched`; how many. seen: false between calls."""
    n = 0
    for i in neurons:
        for k in range(indptr[i], indptr[i + 1]):
            j = pre[k]
            if not seen[j]:
                seen[j] = True
                touched[n] = j
                n += 1
    for k in range(n):
        seen[touched[k]] = False
    return n


@_loop
def reach_taps(
    cell_ptr, cells, list_ptr, channels, geometry, kind, neurons, done, heard, seen, touched, stamp
):
    """As `reach_rows` for a convolution: pre neurons of the post neurons into the front of `touched`; how many.

    kind: a number per output channel, the same for channels that hear the same inputs, so that one of them is enough. Kind k hears
    through the cells cell_ptr[k]:cell_ptr[k + 1], rows of (kernel row, column, list); a list l is the input channels
    list_ptr[l]:list_ptr[l + 1] of `channels`, the same for all cells that have them.
    done, heard, seen: per (kind, output position), (list, input position) and pre neuron, below stamp[0] before the call.
    """
    now = stamp[0]
    h_in, w_in, h_out, w_out = geometry[0], geometry[1], geometry[2], geometry[3]
    s_y, s_x, p_y, p_x, d_y, d_x = (
        geometry[4],
        geometry[5],
        geometry[6],
        geometry[7],
        geometry[8],
        geometry[9],
    )
    area = h_out * w_out
    n = 0
    for i in neurons:
        o = i // area
        at = kind[o] * area + i % area
        if done[at] == now:
            continue
        done[at] = now
        y = (i - o * area) // w_out
        x = i - o * area - y * w_out
        for k in range(cell_ptr[kind[o]], cell_ptr[kind[o] + 1]):
            in_y = y * s_y - p_y + cells[k, 0] * d_y
            in_x = x * s_x - p_x + cells[k, 1] * d_x
            if in_y < 0 or in_y >= h_in or in_x < 0 or in_x >= w_in:
                continue
            position = in_y * w_in + in_x
            at = cells[k, 2] * h_in * w_in + position
            if heard[at] == now:
                continue
            heard[at] = now
            for m in range(list_ptr[cells[k, 2]], list_ptr[cells[k, 2] + 1]):
                j = channels[m] * h_in * w_in + position
                if seen[j] != now:
                    seen[j] = now
                    touched[n] = j
                    n += 1
    return n


@_loop
def sum_once(neurons, group, value, seen):
    """Sum of `value` over the distinct groups of `neurons`. seen: scratch per group, false between calls."""
    total = 0
    for j in neurons:
        if not seen[group[j]]:
            seen[group[j]] = True
            total += value[group[j]]
    for j in neurons:
        seen[group[j]] = False
    return total


@_loop
def count_once(neurons, group, home, seen, value, counts):
    """Add `value` to counts[home[g]] for each distinct group g of `neurons`. seen: scratch per group, false between calls."""
    for j in neurons:
        if not seen[group[j]]:
            seen[group[j]] = True
            counts[home[group[j]]] += value
    for j in neurons:
        seen[group[j]] = False


# Columns of what `grow` knows of a neuron: the last core that it bordered on, and where in the list of that core's neighbours it is; of a pre
# neuron: the last core that it reached, and its synapses there.
STAMP, AT, REACHED = 0, 1, 1
# Neighbours whose best is known together, and what is below any that can be placed.
_BLOCK, _TAKEN = BLOCK, -(1 << 62)


@_loop
def _best_of(keys, first, last):
    best = _TAKEN
    for k in range(first, last):
        best = max(best, keys[k])
    return best


@_loop
def grow(
    in_ptr, in_pre, out_ptr, out_post, limits, costs, form, most_visits,
    order, ends, known, pre_known, placed, neighbour, keys, best, result,
):  # fmt: skip
    """An order of post neurons in which neighbours share pre neurons, and where in it each core ends.

    Cores are grown one after the other: each takes the neuron with the most synapses from pre neurons that already reach the
    core (ties: the one that came up last), as long as limits = (neurons, pre neurons, bits) hold; costs: bits of a synapse in
    a list with indices, of an axon and of a neuron. The first that does not fit begins the next core, so that it borders on the last.
    Beyond `most_visits` synapses looked at the order is left unfinished; result: cores, and how many they were.
    known, pre_known: -1 before; placed: false before.
    """
    bits, axon, neuron = costs[0], costs[1], costs[2]
    visits = 0
    n_post = len(in_ptr) - 1
    # neighbour: of the core that grows, in the order in which they came up: which neuron; keys: larger the more synapses it has from
    # there and, of as many, the later it came up last; best: of each block of them the largest key.
    found = 0
    came = 0
    start = 0
    core = 0
    in_core = 0
    axons = 0
    memory = 0
    for n in range(n_post):
        top = _best_of(best, 0, (found + _BLOCK - 1) // _BLOCK)
        at = 0
        if top > 0:
            while best[at // _BLOCK] != top:
                at += _BLOCK
            while keys[at] != top:
                at += 1
            i = neighbour[at]
        else:
            while placed[start]:
                start += 1
            i = start
        if visits > most_visits:
            break
        more = 0
        more_bits = neuron
        for k in range(in_ptr[i], in_ptr[i + 1]):
            j = in_pre[k]
            if pre_known[j, STAMP] != core:
                more += 1
                more_bits += list_bits(1, bits, form) + axon
            else:
                listed = pre_known[j, REACHED]
                more_bits += list_bits(listed + 1, bits, form) - list_bits(listed, bits, form)
        if in_core and (in_core >= limits[0] or axons + more > limits[1] or memory + more_bits > limits[2]):
            ends[core] = n
            core += 1
            in_core = 0
            axons = 0
            memory = 0
            more = in_ptr[i + 1] - in_ptr[i]
            more_bits = more * (list_bits(1, bits, form) + axon) + neuron
            found = 0
            came = 0
        elif top > 0:
            keys[at] = _TAKEN
            block = at // _BLOCK
            best[block] = _best_of(keys, block * _BLOCK, min(found, (block + 1) * _BLOCK))
        placed[i] = True
        order[n] = i
        in_core += 1
        axons += more
        memory += more_bits
        for k in range(in_ptr[i], in_ptr[i + 1]):
            j = in_pre[k]
            if pre_known[j, STAMP] == core:
                pre_known[j, REACHED] += 1
                continue
            pre_known[j, STAMP] = core
            pre_known[j, REACHED] = 1
            visits += out_ptr[j + 1] - out_ptr[j]
            for m in range(out_ptr[j], out_ptr[j + 1]):
                # Unsigned, as in `measure_rows`.
                t = np.uint32(out_post[m])
                if known[t, STAMP] != core:
                    known[t, STAMP], known[t, AT] = core, found
                    neighbour[found] = t
                    # One that is placed stays below all others, however many synapses come up.
                    keys[found] = _TAKEN if placed[t] else 0
                    if found % _BLOCK == 0:
                        best[found // _BLOCK] = _TAKEN
                    found += 1
                slot = np.uint32(known[t, AT])
                came += 1
                key = (((keys[slot] >> 32) + 1) << 32) | came
                keys[slot] = key
                part = slot // np.uint32(_BLOCK)
                best[part] = max(best[part], key)
    ends[core] = n_post
    result[0], result[1] = core + 1, visits


@_loop
def transpose(indptr, pre, starts, cursor, post):
    """By pre neuron, into `starts` (zero before) and `post`, what is given by post neuron; cursor: room for a number of each."""
    n_pre = len(cursor)
    for k in range(len(pre)):
        starts[pre[k] + 1] += 1
    for j in range(n_pre):
        starts[j + 1] += starts[j]
        cursor[j] = starts[j]
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            j = pre[k]
            post[cursor[j]] = i
            cursor[j] += 1


@_loop
def shared(indptr, pre, out_ptr, out_post, sizes, heard, top, common, touched, seen, number):
    """heard, top: of `bounds.Shared`, zero before. Room: common (post,) and number (pre + 1,), zero before and after; touched (post + 1,); seen (pre,),
    -1 before."""
    n_post = len(indptr) - 1
    for i in range(n_post):
        n = 0
        for k in range(indptr[i], indptr[i + 1]):
            j = pre[k]
            if seen[j] == i:
                continue
            seen[j] = i
            heard[i] += 1
            for q in range(out_ptr[j], out_ptr[j + 1]):
                other = out_post[q]
                # Without a branch: the neuron itself is taken out below.
                touched[n] = other
                n += common[other] == 0
                common[other] += 1
        common[i] = 0
        largest = 0
        for k in range(n):
            # A pair of neurons joined twice is counted twice.
            both = min(common[touched[k]], heard[i])
            number[both] += 1
            largest = max(largest, both)
            common[touched[k]] = 0
        number[0] = 0
        s, taken, total = 0, 0, 0
        for both in range(largest, 0, -1):
            while s < len(sizes) and taken + number[both] >= sizes[s] - 1:
                top[s, i] = total + (sizes[s] - 1 - taken) * both
                s += 1
            taken += number[both]
            total += number[both] * both
            number[both] = 0
        top[s:, i] = total


@_loop
def grouped_bits(indptr, pre, group, atoms, bare, indexed, synapses):
    """As `bounds.grouped_bits`; synapses: of each axon, zero before and after."""
    bits = 0.0
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            synapses[group[pre[k]]] += 1
        for k in range(indptr[i], indptr[i + 1]):
            g = group[pre[k]]
            bits += min(bare * atoms[g], indexed * synapses[g])
            synapses[g] = 0
    return bits
