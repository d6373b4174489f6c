"""Scores, summaries, figures and speed of any model's masks."""
