"""Configs: reading, overriding, checking."""
