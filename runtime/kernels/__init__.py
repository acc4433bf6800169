"""Numba kernels made where they run, from checked parameters and the CPU found."""
