"""Errors of the runtime. Each extends the nearest builtin, so that callers can catch that."""


class ArtifactError(ValueError):
    """An artifact that is truncated, tampered with, of another version, or malformed."""


class FeedError(ValueError):
    """Feeds of a run that do not match the signature: which name, what was wanted, what came."""


class UnsupportedError(ValueError):
    """Sizes, types or a CPU that the runtime's kernels cannot serve."""


class HostStepError(RuntimeError):
    """A step that onnxruntime loaded but could not run: which one, and what it said."""


class KernelCacheError(OSError):
    """A folder for compiled kernels that cannot be used, and how to choose another one."""
