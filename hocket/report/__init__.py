"""Pages that say what was compiled and what it is predicted to take, each in one file."""
