"""Traces and workloads of others, as Venn's evaluation uses them; ``README.md`` says whose."""
