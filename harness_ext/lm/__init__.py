"""Models behind lm-eval's LM interface."""
