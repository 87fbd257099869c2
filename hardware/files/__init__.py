"""Files read without running anything in them, and written whole or not at all."""
