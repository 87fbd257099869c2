"""A trained network as a NIR graph, and a NIR graph as a network to train."""
