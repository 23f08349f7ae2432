"""The model: CLIP ViT, projector, LLaMA decoder with LoRA, float head. Arrays and axis names only."""
