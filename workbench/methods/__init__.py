"""Adaptation methods: one file each, grouped in families. README.md here is generated from the files."""
