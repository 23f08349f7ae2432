"""Base folders as tests look at them."""

from igllm_jax.weights import base_folder


def read_arrays(folder, wanted=None):
    """Path -> NumPy array in the stored dtype. wanted: only these paths (default: all)."""
    return {path: base_folder.read_array(folder, path) for path in wanted or base_folder.paths(folder)}
