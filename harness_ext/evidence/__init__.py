"""What results show, and what they do not: numbers in, numbers out. Knows no files, no models and no names."""
