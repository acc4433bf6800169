"""Algorithms of federated learning that need nothing but parameters."""
