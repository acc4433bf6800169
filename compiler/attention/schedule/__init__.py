"""Dataflows: the order of an attention problem's tiles on a machine's streams."""
