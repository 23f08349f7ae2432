"""Training: the step, the loss, the optimizer, and what a person sees of a run."""
