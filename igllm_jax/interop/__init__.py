"""Weights in and out: Hugging Face CLIP, LLaMA and LLaVA, PEFT adapters, the reference's checkpoints."""
