"""Order of a directed graph with cycles: its recurrent edges, and the topological order without them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

Edge = tuple[str, str]


def successors(nodes: Iterable[str], edges: Iterable[Edge]) -> dict[str, list[str]]:
    """For each node, the nodes that its edges lead to."""
    result: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in edges:
        result[source].append(target)
    return result


def predecessors(nodes: Iterable[str], edges: Iterable[Edge]) -> dict[str, list[str]]:
    """For each node, the nodes whose edges lead to it."""
    return successors(nodes, ((target, source) for source, target in edges))


def reachable(start: Iterable[str], following: Mapping[str, Sequence[str]]) -> set[str]:
    """All nodes on a path from `start`, `start` included."""
    seen = set(start)
    stack = list(seen)
    while stack:
        for name in following[stack.pop()]:
            if name not in seen:
                seen.add(name)
                stack.append(name)
    return seen


def components(nodes: Sequence[str], edges: Collection[Edge]) -> list[list[str]]:
    """Strongly connected components in topological order (Tarjan 1972, without recursion)."""
    following = successors(nodes, edges)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    on_stack: set[str] = set()
    stack: list[str] = []
    found: list[list[str]] = []
    for root in nodes:
        if root in index:
            continue
        work = [(root, iter(following[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            name, rest = work[-1]
            for other in rest:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(following[other])))
                    break
                if other in on_stack:
                    low[name] = min(low[name], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == index[name]:
                    at = stack.index(name)
                    found.append(stack[at:])
                    on_stack.difference_update(stack[at:])
                    del stack[at:]
    found.reverse()
    return found


def cyclic(nodes: Sequence[str], edges: Collection[Edge]) -> list[list[str]]:
    """The components that hold a cycle: two nodes or more, or an edge from a node to itself."""
    loops = {source for source, target in edges if source == target}
    return [c for c in components(nodes, edges) if len(c) > 1 or c[0] in loops]


def recurrent_edges(
    nodes: Sequence[str], edges: Sequence[Edge], stateful: Collection[str]
) -> frozenset[Edge]:
    """The edges that carry the previous step's values, so that the rest has no cycle.

    A cycle is entered where the longest path from outside leads into it, so that a skip connection past a
    node does not turn the way through that node into the recurrent one; the edges inside the cycle that lead
    back to its entry are recurrent. Where such an edge leaves a stateless node (the matrix of recurrent
    weights) that feeds nothing else, the edges into that node are recurrent in its place: what is delayed is
    the spikes.
    """
    cut: set[Edge] = set()
    while True:
        kept = [edge for edge in edges if edge not in cut]
        parts = components(nodes, kept)
        part_of = {name: i for i, part in enumerate(parts) for name in part}
        depth = [0] * len(parts)
        entry_depth: dict[str, int] = {}
        outgoing = successors(nodes, kept)
        for i, part in enumerate(parts):
            for name in part:
                for target in outgoing[name]:
                    j = part_of[target]
                    if j != i:
                        depth[j] = max(depth[j], depth[i] + len(part))
                        entry_depth[target] = max(entry_depth.get(target, -1), depth[i])
        new: set[Edge] = set()
        for i, part in enumerate(parts):
            inside = [(a, b) for a in part for b in outgoing[a] if part_of[b] == i]
            if inside:
                entry = max(part, key=lambda name: entry_depth.get(name, -1))
                new.update(edge for edge in inside if edge[1] == entry)
        if not new:
            break
        cut |= new
    return frozenset(_towards_spikes(nodes, edges, stateful, cut))


def _towards_spikes(
    nodes: Sequence[str], edges: Sequence[Edge], stateful: Collection[str], cut: set[Edge]
) -> set[Edge]:
    part_of = {name: i for i, part in enumerate(components(nodes, edges)) for name in part}
    incoming, outgoing = predecessors(nodes, edges), successors(nodes, edges)
    queue = [source for source, _ in sorted(cut)]
    while queue:
        name = queue.pop()
        out = [(name, target) for target in outgoing[name]]
        if name in stateful or not out or not all(edge in cut for edge in out):
            continue
        cut.difference_update(out)
        back = [source for source in incoming[name] if part_of[source] == part_of[name]]
        cut.update((source, name) for source in back)
        queue.extend(back)
    return cut


def topological(nodes: Sequence[str], edges: Collection[Edge]) -> tuple[str, ...]:
    """The nodes of an acyclic graph, every node after those that lead to it, else in the order given."""
    following = successors(nodes, edges)
    waiting = {name: len(before) for name, before in predecessors(nodes, edges).items()}
    order = [name for name in nodes if waiting[name] == 0]
    for name in order:  # grows while it is read
        for target in following[name]:
            waiting[target] -= 1
            if waiting[target] == 0:
                order.append(target)
    return tuple(order)
