"""Where rounds run: this machine, a Ray cluster, a Flower federation."""
