"""Several jobs on one population of simulated devices: `hocket fleet`."""
