"""What runs have left behind, read from files alone. Knows no model and no torch."""
