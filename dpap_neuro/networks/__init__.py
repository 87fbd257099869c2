"""Spiking networks: populations over time, what a step does, and models by name."""
