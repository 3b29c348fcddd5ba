"""Edits of the residual stream at chosen tokens."""
