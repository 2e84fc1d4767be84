"""SpaceVLLM: when and where, in plain words, in any video."""
