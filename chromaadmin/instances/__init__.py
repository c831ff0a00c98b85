"""Instances: the registered stores, who they are, and the figures that were read of them."""
