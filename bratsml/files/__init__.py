"""Files as the package writes, reads and owns them; every other room goes through this one.

- ``writing``: a crash never leaves half of a file.
- ``reading``: only ordinary files are opened, and never more of them than was asked for;
  ``arrays``, ``tables`` and ``yaml_text`` likewise for what is no plain text.
- ``names``: names that people gave, as they can be printed and stored.
- ``temporaries``: names that are ours alone, so that litter can be told from people's files.
- ``places``: what is written never lies in, around or on top of what is read.
"""

from bratsml.files.arrays import array_header, open_array, read_archived_array
from bratsml.files.names import printable, stored_name
from bratsml.files.places import require_apart
from bratsml.files.reading import (
    FileTooLargeError,
    NotAFileError,
    open_file,
    parse_json,
    read_bytes,
    read_end,
    read_json,
    read_text,
    sha256_of,
)
from bratsml.files.tables import read_table, rows_as_csv, table_as_csv
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
from bratsml.files.yaml_text import parse_yaml, read_yaml_file

__all__ = [
    "FileTooLargeError",
    "NotAFileError",
    "array_header",
    "fsync_folder",
    "is_temporary",
    "open_array",
    "open_file",
    "parse_json",
    "parse_yaml",
    "printable",
    "read_archived_array",
    "read_bytes",
    "read_end",
    "read_json",
    "read_table",
    "read_text",
    "read_yaml_file",
    "remove_abandoned",
    "require_apart",
    "rows_as_csv",
    "sha256_of",
    "sha256_of_json",
    "stored_name",
    "table_as_csv",
    "temporary_folder",
    "write_atomically",
    "write_bytes",
    "write_json",
    "write_text",
]
