"""The base models that come along, the scripts that made them, and how a model's name becomes a folder."""
