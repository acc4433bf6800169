"""The device scheduler as a process: jobs and devices over HTTP, kept over restarts."""
