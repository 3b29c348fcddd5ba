"""One screen a file; each calls `boot()` first."""
