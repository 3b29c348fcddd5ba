"""The record of all runs in MLflow: the only code that knows it. Nothing here is imported before it is needed."""
