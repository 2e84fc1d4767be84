"""Words: what a model is asked (instructions) and what it writes (answers: text ⇄ span ⇄ boxes)."""
