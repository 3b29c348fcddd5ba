"""All sites share one bank of vectors or projections; each site trains little beside it."""
