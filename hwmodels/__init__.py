"""Floor 1: what a machine is, what a program for it looks like, and what that program costs."""
