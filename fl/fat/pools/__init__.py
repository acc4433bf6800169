"""Published pools of devices, as data."""
