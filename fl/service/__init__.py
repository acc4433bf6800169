"""What services over HTTP share: who may ask, how much at once, and what is said to others."""
