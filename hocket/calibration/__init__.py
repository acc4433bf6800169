"""What this CPU can do, measured with the kernels' own tiles, and the target that says so.

Three steps, each of its own: ``measure`` times, ``calibrate`` turns timings into a machine, and
``write_target`` writes that to a file that ``--target`` takes.
"""
