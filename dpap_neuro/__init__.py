"""Learning: event data, Norse networks, DPAP, training; ends in a `.nir` file."""
