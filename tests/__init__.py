"""A package, so that pytest puts the project in front of sys.path and not this folder (it holds a tests/spacevllm)."""
