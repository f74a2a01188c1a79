"""Results for people: two runs compared, sentences shown, and one page with all of it. Knows no model."""
