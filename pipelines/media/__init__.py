"""Folders and lists of videos come in; videos with ids, and their sampled frames or why there are none, go out."""
