"""The attention wing turns a problem and a machine into a program; it knows no graphs."""
