"""The ground the application stands on: data directory, keys, processes, logs."""
