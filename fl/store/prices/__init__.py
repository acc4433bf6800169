"""What clouds charge: a file a provider and region, each price with its source."""
