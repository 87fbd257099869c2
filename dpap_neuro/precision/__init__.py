"""Training on the integers that a chip runs: the forward pass is the chip's arithmetic, gradients are those of the float model."""
