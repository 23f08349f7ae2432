"""igllm_jax: images to scene code, trained in JAX."""

__version__ = "0.1.0"
