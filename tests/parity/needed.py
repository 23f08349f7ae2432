"""What these tests need beside the project's own requirements."""

from importlib.util import find_spec

MISSING = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
