"""The address of a server that speaks OpenAI's format, with what is secret in it taken out."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from heartloop.errors import UsageError

__all__ = ["Address", "usable_key"]


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """A base URL in parts; :attr:`shown` alone may be shown or logged.

    Attributes:
        shown: the URL without credentials and query, and without a slash at its end.
        query: sent with every request.
        basic: ``user:password@`` as basic authentication's token, or "".
        secrets: what must not be repeated from a server's words (the short ones left out).
    """

    shown: str
    query: dict[str, str]
    basic: str
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"

    @property
    def root(self) -> str:
        """:attr:`shown` without ``/v1`` at its end: where vLLM has /metrics, /health and /tokenize."""
        return self.shown.removesuffix("/v1")

    @classmethod
    def of(cls, base_url: str) -> Address:
        """Raises UsageError for what is no http or https URL."""
        try:
            parts = urlsplit(base_url)
            netloc = parts.netloc.rpartition("@")[2]
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            valid = False
        if not valid:
            raise UsageError("base_url must look like http://HOST:PORT/v1 or https://HOST/v1")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        basic = b64encode(f"{user}:{password}".encode()).decode() if user or password else ""
        secrets = [user, password, basic, parts.query, *query.values()]
        shown = urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))
        return cls(shown, query, basic, tuple(s for s in secrets if len(s) > 3))


def usable_key(key: str, source: str) -> str:
    """``key``, stripped. Raises UsageError that names its ``source`` if no HTTP header can carry it."""
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"the API key ({source}) holds characters that no HTTP header can carry")
    return key
