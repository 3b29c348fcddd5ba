"""Changes of a fixed structure: diagonals, scales, Kronecker products."""
