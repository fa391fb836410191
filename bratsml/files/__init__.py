"""Files as the package writes, reads and owns them; every other room goes through this one.

- ``writing``: a crash never leaves half of a file.
- ``reading``: only ordinary files are opened, and never more of them than was asked for.
- ``temporaries``: names that are ours alone, so that litter can be told from people's files.
- ``places``: what is written never lies in, around or on top of what is read.
"""

from bratsml.files.places import require_apart
from bratsml.files.reading import (
    FileTooLargeError,
    NotAFileError,
    open_file,
    read_bytes,
    read_json,
    read_text,
    sha256_of,
)
from bratsml.files.temporaries import (
    is_temporary,
    remove_abandoned,
    temporary_folder,
)
from bratsml.files.writing import (
    fsync_folder,
    sha256_of_json,
    write_atomically,
    write_bytes,
    write_json,
    write_text,
)

__all__ = [
    "FileTooLargeError",
    "NotAFileError",
    "fsync_folder",
    "is_temporary",
    "open_file",
    "read_bytes",
    "read_json",
    "read_text",
    "remove_abandoned",
    "require_apart",
    "sha256_of",
    "sha256_of_json",
    "temporary_folder",
    "write_atomically",
    "write_bytes",
    "write_json",
    "write_text",
]
