"""igllm_jax: images to scene code, trained in JAX. `load` opens a trained model, `load_params` what it learned."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igllm_jax.api import load as load
    from igllm_jax.training.metrics_log import load_metrics as load_metrics
    from igllm_jax.weights.checkpoint import load_params as load_params

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load`, `load_params` and `load_metrics`, imported when they are asked for: not every command needs JAX."""
    if name == "load":
        from igllm_jax.api import load

        return load
    if name == "load_params":
        from igllm_jax.weights.checkpoint import load_params

        return load_params
    if name == "load_metrics":
        from igllm_jax.training.metrics_log import load_metrics

        return load_metrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
