"""Storage and compute for what is not training: every update of every round, and work on them."""
