"""Browsing: collections, records and vector segments of a store, read by key and changed by nothing."""
