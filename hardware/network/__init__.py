"""The integer network: populations and projections, when spikes arrive, who is connected to whom."""
