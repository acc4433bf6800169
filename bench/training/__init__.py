"""What the bench of training steps trains."""
