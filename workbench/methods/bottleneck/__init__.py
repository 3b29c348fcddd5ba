"""Small networks inside the blocks: down, a non-linearity, up."""
