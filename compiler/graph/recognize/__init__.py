"""Attention in its written forms, recognised by the maths it computes."""
