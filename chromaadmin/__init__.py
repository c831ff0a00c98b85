"""Chroma Admin: the Django project that shows, checks and maintains Chroma stores."""

__version__ = "0.1.0"
