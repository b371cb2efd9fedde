"""The body of an HTTP answer as aiohttp has it, with a limit on what a server can make this process hold."""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

from heartloop.errors import BadResponse

if TYPE_CHECKING:
    import aiohttp

__all__ = ["LARGEST", "LARGEST_INFLATED", "content_of"]

LARGEST = 1 << 28
"""Bytes of an answer. With the log-probabilities of a long prompt they are many; this is beyond all."""

LARGEST_INFLATED = 1 << 26
"""Bytes of one that came compressed, which was not asked for: a thousandth of them may have been sent."""

_ZLIB_OR_GZIP = 47  # zlib.decompress's ``wbits``: either header


async def content_of(response: aiohttp.ClientResponse, where: str) -> bytes:
    """The whole body, decompressed. For a session with ``auto_decompress=False``.

    Raises:
        BadResponse: larger than the limits, or in an encoding that can't be read. ``where`` names the server.
    """
    length = response.content_length
    if length is not None and length <= LARGEST:
        content = await response.read()
    else:
        parts = bytearray()
        async for part in response.content.iter_any():
            parts += part
            if len(parts) > LARGEST:
                raise BadResponse(f"{where} sent more than {LARGEST >> 20} MiB", status=response.status)
        content = bytes(parts)
    encoding = response.headers.get("Content-Encoding")
    return content if encoding is None else _plain(content, encoding.strip().lower(), response.status, where)


def _plain(content: bytes, encoding: str, status: int, where: str) -> bytes:
    if encoding in ("", "identity"):
        return content
    said = f"{where} answered in the encoding {encoding[:20]!r}, which was not asked for"
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise BadResponse(said, status=status)
    inflating = zlib.decompressobj(_ZLIB_OR_GZIP)
    with suppress(zlib.error):
        plain = inflating.decompress(content, LARGEST_INFLATED)
        if inflating.eof:
            return plain
    raise BadResponse(f"{said}, and can't be read or is too large", status=status)
