"""The parts of ``bench/kernel_latency.py``: what is timed, against whom, and in which process."""
