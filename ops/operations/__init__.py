"""One file per operation; the file name is the operation's name (``hnsw_rebuild.py`` is ``hnsw rebuild``)."""
