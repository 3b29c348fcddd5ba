"""Judging a model apart from training it, and measuring what it costs."""
