"""Search of the tiling space for the best program on a machine."""
