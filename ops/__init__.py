"""What can be done to a Chroma persist directory, in pure Python without Django: ``python -m ops --help``."""
