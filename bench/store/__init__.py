"""What the store is measured beside: servers of others, and aggregators that read from them."""
