"""igllm_jax: images to scene code, trained in JAX.

`load` opens a trained model, `load_params` what it learned, `score` says how well code explains an image.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igllm_jax.api import load as load
    from igllm_jax.refine.reward import score as score
    from igllm_jax.training.metrics_log import load_metrics as load_metrics
    from igllm_jax.weights.checkpoint import load_params as load_params

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What the module names, imported when it is asked for: not every command needs JAX."""
    if name == "load":
        from igllm_jax.api import load

        return load
    if name == "load_params":
        from igllm_jax.weights.checkpoint import load_params

        return load_params
    if name == "score":
        from igllm_jax.refine.reward import score

        return score
    if name == "load_metrics":
        from igllm_jax.training.metrics_log import load_metrics

        return load_metrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
