"""A model and questions with known answers come in; scores beside baselines go out."""
