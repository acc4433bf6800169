"""What computes a client's model."""
