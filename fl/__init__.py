"""Floor 4: federated learning on compiled modules."""
