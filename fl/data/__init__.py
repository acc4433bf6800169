"""Data sets to train on, and how they are spread over devices."""
