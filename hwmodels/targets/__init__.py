"""Data files: one machine described per TOML file, every figure with its unit and source."""
