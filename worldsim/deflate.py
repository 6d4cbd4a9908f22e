"""Compression of frames: standard deflate, by the faster library where it is installed."""

import zlib as deflate
from contextlib import suppress

with suppress(ImportError):
    from isal import isal_zlib as deflate  # type: ignore[no-redef, unused-ignore]  # same calls, same format

__all__ = ["deflate"]
