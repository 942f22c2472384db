"""What `verify` finds by the entry points in pyproject.toml."""
