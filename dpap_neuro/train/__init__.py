"""The training loop, its runs on disk, and sweeps over many."""
