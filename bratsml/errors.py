"""Errors a user can cause and must be able to mend.

Each message is one sentence: which case, file or setting, what is wrong, what to do.
The command line prints it without a traceback; anything else that escapes is our bug.
"""

from __future__ import annotations


class BratsmlError(Exception):
    """Base of every error a user can meet; ``str(error)`` is the whole message."""


class ConfigError(BratsmlError):
    """A setting is unknown, has the wrong type or cannot be combined with another."""


class DataError(BratsmlError):
    """A case or one of its files cannot be used.

    Args:
        case: Case id (never a path: paths can carry patient names).
        file: File name within the case, or ``""`` when the case as a whole is meant.
        reason: What is wrong, with the value found.
        remedy: What the user can do about it.
    """

    def __init__(self, case: str, file: str, reason: str, remedy: str) -> None:
        self.case, self.file, self.reason, self.remedy = case, file, reason, remedy
        place = f"{case}: {file}" if file else case
        super().__init__(f"{place}: {reason}; {remedy}")

    def __reduce__(self) -> tuple[type[DataError], tuple[str, str, str, str]]:
        """Let worker processes hand the error back whole (the default keeps only the message)."""
        return type(self), (self.case, self.file, self.reason, self.remedy)


class CheckpointError(BratsmlError):
    """A checkpoint is damaged, missing or belongs to another configuration."""


class ResourceError(BratsmlError):
    """The machine lacks something: disk space, memory, a device, a writable folder."""


class TrackingError(BratsmlError):
    """The tracking store cannot be used, or a run asked for is not in it."""
