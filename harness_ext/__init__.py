"""What lm-evaluation-harness lacks to settle "prompt a big model or fine-tune a small one?"."""

__version__ = "0.1.0"
