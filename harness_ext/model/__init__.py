"""What answers: checkpoints and adapters, found, checked and loaded. Knows no run."""
