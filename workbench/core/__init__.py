"""Plain values that every other layer shares: types, spec, events, errors, paths. Imports no torch and nothing of ours."""
