"""Fleets of devices that are not there: how long they take, and when they fail."""
