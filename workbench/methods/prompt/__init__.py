"""Virtual tokens are trained: before the embedded input, or as keys and values of every layer."""
