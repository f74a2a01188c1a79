"""Makes LoRA adapters that `harness_ext` evaluates: ``python -m finetune --samples=64``."""
