"""Errors that a user can cause; the command line prints them without a traceback."""

__all__ = ["CheckpointError", "ConfigError", "DataError", "NumericError", "VerisalError"]


class VerisalError(Exception):
    """Base of every error that a user can cause and can mend."""


class ConfigError(VerisalError):
    """A setting that cannot work: names the key, what was found and what was expected."""


class DataError(VerisalError):
    """An image, annotation or stored feature that cannot be used; names the file and the index."""


class CheckpointError(VerisalError):
    """A checkpoint that is missing, damaged, untrusted, or made for something else."""


class NumericError(VerisalError):
    """A loss or a map that is not finite."""
