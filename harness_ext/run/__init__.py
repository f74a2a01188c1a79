"""From what a user asked to a finished record."""
