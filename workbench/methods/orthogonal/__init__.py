"""Weights are rotated or reflected rather than added to."""
