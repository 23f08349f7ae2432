"""Config files for `igllm --config`; each has `get_config(argument)`."""
