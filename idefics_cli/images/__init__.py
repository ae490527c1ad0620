"""Images: from what a user names to upright RGB pixels.

`expand` says what there is to read, `load` reads one source, `decode` is the only decoder.
Knows no model and no prompt.
"""

from .decode import decode
from .fetch import fetch
from .limits import Limits
from .sources import expand, is_url, load

__all__ = ["Limits", "decode", "expand", "fetch", "is_url", "load"]
