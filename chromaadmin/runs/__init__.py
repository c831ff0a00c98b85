"""Runs: who asked for which operation, when, and how it ended."""
