"""Work on what federations leave, a family of questions a file."""
