"""Changes of low rank."""
