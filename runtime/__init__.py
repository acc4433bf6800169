"""Floor 2: an artifact in, numbers out; with floor 1 it is all that a device needs."""
