"""The method contract and the one place that edits a host model."""
