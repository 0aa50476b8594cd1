"""Tiny stages for tests of the engine."""
