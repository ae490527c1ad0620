"""Images: from what a user names to upright RGB pixels.

`expand` says what there is to read, `load` reads one source, `decode` is the only decoder.
Knows no model and no prompt.
"""

from .deadline import Deadline
from .decode import decode
from .formats import has_image_suffix
from .limits import Limits
from .names import name_own_fields, name_source
from .pixels import drop_pixels, leave_unread
from .sources import expand, is_url, load, read, read_names, split_member

__all__ = [
    "Deadline",
    "Limits",
    "decode",
    "drop_pixels",
    "expand",
    "has_image_suffix",
    "is_url",
    "leave_unread",
    "load",
    "name_own_fields",
    "name_source",
    "read",
    "read_names",
    "split_member",
]
