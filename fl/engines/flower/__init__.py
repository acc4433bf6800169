"""A federation on Flower: simulated, or deployed as a SuperLink and its SuperNodes."""

import os

# Flower reads it when it is loaded, and this file is loaded before it.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
