"""Models: sizes, building from a configuration, heads and losses, export."""
