"""What a network does: in floats, in the chip's integers, on Lava; and whether these agree."""
