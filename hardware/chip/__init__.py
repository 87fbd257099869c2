"""Chips as data: their limits, and the bits that a core spends on synapses."""
