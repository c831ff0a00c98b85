"""A Chroma persist directory, read correctly and changed safely."""
