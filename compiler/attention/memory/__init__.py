"""On-chip memory: which buffers live when, and where each one lies."""
