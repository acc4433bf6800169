"""Other ways to train robust models on devices whose memory cannot hold them."""
