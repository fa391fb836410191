"""How a command ends that could not do what was asked: in one sentence, whatever went wrong."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from bratsml.errors import BratsmlError
from bratsml.files import printable, write_text

MISTAKE_OF_OURS = 70
"""Exit code after an error that bratsml did not foresee (EX_SOFTWARE of <sysexits.h>)."""
TRACEBACK_VARIABLE = "BRATSML_TRACEBACK"
"""Where it is set, what was not foreseen is raised on, for a debugger."""
_LONGEST = 2000
_PLACE = Path("outputs") / "errors"


def tell(error: Exception) -> int:
    """Print one sentence about an error on standard error; returns the exit code.

    What a user can cause says what is wrong and what to do. Of anything else the details go into a
    file, and the sentence says where.
    """
    if isinstance(error, BratsmlError):
        _say(str(error))
        return 1
    if isinstance(error, BrokenPipeError):  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if os.environ.get(TRACEBACK_VARIABLE):
        raise error
    if isinstance(error, OSError) and error.filename is not None:
        reason = error.strerror or "input error"
        _say(f"{_name_of(error)} cannot be used ({reason}); {_advice(error)}")
        return 1
    if isinstance(error, MemoryError):
        _say("there is not enough memory for this; free some, or make the settings smaller")
        return 1
    what = printable(f"{type(error).__name__}: {error}", 200)
    _say(f"a mistake of bratsml, please report it ({what}); the details are in {_kept(error)}")
    return MISTAKE_OF_OURS


def _say(sentence: str) -> None:
    print(f"bratsml: {printable(sentence, _LONGEST)}", file=sys.stderr)


def _name_of(error: OSError) -> str:
    """The file, by its last part: folders above can carry names of patients."""
    return printable(os.path.basename(os.fsdecode(error.filename)), 80) or "a file"  # noqa: PTH119


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some disk and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "check its permissions"
    return "check its name"


def _kept(error: Exception) -> Path:
    """The file that the traceback was written to."""
    text = "".join(traceback.format_exception(error))
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (_PLACE, Path(tempfile.gettempdir())):
        try:
            write_text(folder / name, text.encode("utf-8", "backslashreplace").decode())
        except (BratsmlError, OSError):
            continue
        return folder / name
    sys.stderr.write(text)
    return Path("the lines above")
