"""What is asked: data, prompts, and how an answer is read and scored. Knows no model."""
