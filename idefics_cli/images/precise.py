"""Files that Pillow decodes wrongly or not at all, decoded by tifffile and imagecodecs (the extra `formats`).

Arrays of any depth become Pillow images of 8 bits a channel, or of one deep channel. Without the extra a file is
refused by name.
"""

from __future__ import annotations

import importlib
import io
import logging
from typing import Any

import numpy as np
import PIL.Image

from ..errors import SourceError
from .limits import Limits, check_size
from .misread import Foreign

HINT = "pip install 'idefics-cli[formats]'"
MAX_SAMPLES = 8
_ALPHA = {1: "premultiplied", 2: "plain"}


def require(what: str, name: str) -> Any:
    """imagecodecs. Raises SourceError that names the file and the extra if it is not installed."""
    try:
        return importlib.import_module("imagecodecs")
    except ImportError:
        raise SourceError(f"{name} is {what}, which needs an extra", code="not_an_image", hint=HINT) from None


def read_codec(content: bytes, foreign: Foreign, name: str, limits: Limits) -> PIL.Image.Image:
    """An image by one of imagecodecs' codecs. Raises SourceError, or RuntimeError or ValueError if it is damaged."""
    decode = getattr(require(foreign.what, name), f"{foreign.codec}_decode")
    array = np.asarray(decode(content))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] > 4):
        raise SourceError(f"{name} is {foreign.what} of several frames or channels", code="not_an_image")
    check_size(array.shape[1], array.shape[0], name, limits)
    bits = foreign.bits or array.dtype.itemsize * 8
    return _to_image(array, bits, has_alpha=array.ndim == 3 and array.shape[2] in (2, 4))


def read_tiff(content: bytes, page_number: int, what: str, name: str, limits: Limits) -> PIL.Image.Image:
    """One page of a TIFF. Raises SourceError, ValueError or what tifffile raises on damage."""
    require(what, name)
    import tifffile

    logging.getLogger("tifffile").disabled = True  # its complaints would be lines on stderr
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages[page_number]
        if not isinstance(page, tifffile.TiffPage):
            page = page.aspage()
        check_size(page.imagewidth, page.imagelength, name, limits)
        samples, ends = page.samplesperpixel, zip(page.dataoffsets, page.databytecounts, strict=True)
        if page.imagedepth != 1 or not 1 <= samples <= MAX_SAMPLES:
            raise SourceError(f"{name} is {what} of {samples} channels, which is not read", code="not_an_image")
        if any(offset + count > len(content) or not count for offset, count in ends):
            raise EOFError("truncated")
        array = page.asarray(maxworkers=1)
        if page.planarconfig == 2 and samples > 1:
            array = np.moveaxis(array, 0, -1)
        array = array.reshape(page.imagelength, page.imagewidth, samples)
        return _arrange(array, page, what, name)


def _arrange(array: np.ndarray[Any, Any], page: Any, what: str, name: str) -> PIL.Image.Image:
    """Channels in the order and meaning that Pillow has modes for."""
    photometric, bits = int(page.photometric), int(page.bitspersample)
    if page.compression in (6, 7, 33003, 33005, 34712, 50001, 52546) and photometric == 6:
        photometric = 2  # the codec has made RGB of it
    colours = {0: 1, 1: 1, 2: 3, 5: 4}.get(photometric)
    if colours is None or array.shape[2] < colours:
        raise SourceError(f"{name} is {what}, which is not read", code="not_an_image", hint="save it as RGB first")
    extra = tuple(int(kind) for kind in page.extrasamples)
    alpha = _ALPHA.get(extra[0]) if extra and array.shape[2] > colours and colours != 4 else None
    array = array[..., : colours + (alpha is not None)]
    if photometric == 0:
        ground = array[..., :1]
        if ground.dtype.kind == "i":
            raise SourceError(f"{name} is {what}, which is not read", code="not_an_image")
        most = _find_most(ground) if ground.dtype.kind == "f" else 2**bits - 1
        array = np.concatenate([most - ground, array[..., 1:]], axis=-1).astype(array.dtype)
    if alpha == "premultiplied":
        array = _divide(array, bits)
    if photometric == 5:
        return PIL.Image.fromarray(np.ascontiguousarray(_to_8_bit(array, bits)), "CMYK")
    return _to_image(array, bits, has_alpha=alpha is not None)


def _find_most(values: np.ndarray[Any, Any]) -> float:
    high = float(values.max())
    return 1.0 if high <= 1 else 255.0 if high <= 255 else high


def _divide(array: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Colours before they were multiplied with their alpha."""
    alpha = array[..., -1:].astype(np.float32)
    full = 1.0 if array.dtype.kind == "f" else float(2**bits - 1)
    colours = np.where(alpha > 0, array[..., :-1] * (full / np.maximum(alpha, 1e-9)), 0)
    return np.concatenate([np.clip(colours, 0, full).astype(array.dtype), array[..., -1:]], axis=-1)


def _to_image(array: np.ndarray[Any, Any], bits: int, *, has_alpha: bool) -> PIL.Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 2 and array.dtype.kind in "iu" and bits > 16 and array.min() >= 0 and array.max() <= 65535:
        array, bits = array.astype(np.uint16), 16
    if array.ndim == 2 and (array.dtype.kind != "u" or bits > 16):
        return PIL.Image.fromarray(array.astype(np.float32))
    eight = np.ascontiguousarray(_to_8_bit(array, bits))
    mode = "L" if eight.ndim == 2 else {2: "LA", 3: "RGB", 4: "RGBA"}[eight.shape[2]]
    image = PIL.Image.frombytes(mode, (eight.shape[1], eight.shape[0]), eight.tobytes())
    return image if has_alpha or mode in {"L", "RGB"} else image.convert("RGB")


def _to_8_bit(array: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    if array.dtype.kind == "u" and bits == 8:
        return array
    if array.dtype.kind == "u":
        scaled: np.ndarray[Any, Any] = np.round(array * (255.0 / (2**bits - 1)))
        return scaled.clip(0, 255).astype(np.uint8)
    if not np.isfinite(array).all():
        raise ValueError("pixel values are not finite numbers")
    low, high = float(array.min()), float(array.max())
    # The three customs for numbers that are no shares: 0 to 1, 0 to 255, anything.
    if low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    eight: np.ndarray[Any, Any] = np.round((array.astype(np.float64) - low) * (255.0 / ((high - low) or 1.0)))
    return eight.astype(np.uint8)
