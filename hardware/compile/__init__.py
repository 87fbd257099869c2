"""From a graph to the integers of a chip."""
