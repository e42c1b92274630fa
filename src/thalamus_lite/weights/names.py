"""Names that come from elsewhere: which may become paths here, and which may be shown.

An S3 key, a URL or a repository chooses the names of the files it brings. Such a name is refused
as soon as it could leave the entry's folder, mean two things, or fall on another name of the same
entry: it is never repaired, because a repaired name may collide with an honest one.
"""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from thalamus_lite.errors import UnsafeName

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_COMPONENT_BYTES = 255
# PATH_MAX is 4096 with the cache's own folders in front.
MAX_NAME_BYTES = 2048

# All that `quote` would encode and a browser leaves as it is, the percent sign included.
_ASCII = string.punctuation
_LEAVE_OUT = "leave one of them out with allow_patterns"
_DRIVE = re.compile(r"[A-Za-z]:")
_V4 = "algorithm|credential|date|expires|signature|signedheaders|security-token|content-sha256"
_SIGNINGS = tuple(
    (frozenset(needed.split()), re.compile(names))
    for needed, names in (
        ("x-amz-signature", rf"x-amz-({_V4})"),
        ("x-goog-signature", rf"x-goog-({_V4})"),
        ("x-oss-signature", rf"x-oss-({_V4}|signature-version|additional-headers)"),
        ("awsaccesskeyid signature", "awsaccesskeyid|signature|expires|x-amz-security-token"),
        ("googleaccessid signature", "googleaccessid|signature|expires"),
        ("ossaccesskeyid signature", "ossaccesskeyid|signature|expires|security-token"),
        ("key-pair-id signature", "key-pair-id|signature|expires|policy|hash-algorithm"),
        (
            "sig sv",
            "sig|s[vsetpri]|srt|spr|sip|sdd|ses|sk(oid|tid|t|e|s|v)|saoid|suoid|scid",
        ),
    )
)
"""What Amazon, Google, Alibaba, CloudFront and Azure add to a query to sign it, which changes from
one signing to the next: the names that tell a signing, and all of its names. Without the former
the latter are any server's own: ``?si=bert`` chooses a file."""


def check_relpath(name: str) -> str:
    """``name`` itself, if it can be a file's path below an entry.

    Raises:
        UnsafeName: it is empty, absolute, has an empty, ``.`` or ``..`` component, a backslash, a
            drive letter, a control character, a component over 255 bytes, or cannot be encoded.
    """
    problem = _problem(name)
    if problem:
        raise UnsafeName(
            f"the file name {_shown(name)} {problem}, so it is not stored: rename it where it comes"
            " from, or leave it out with allow_patterns"
        )
    return name


def check_names(names: Iterable[str], cure: str = _LEAVE_OUT) -> None:
    """Refuse an entry of which two names would fall on each other.

    Upper and lower case, and the two Unicode spellings of an accent, count as the same name on
    every system: an entry must mean the same on a Mac as on Linux.

    Raises:
        UnsafeName: a name is not safe alone, or collides.
    """
    files: dict[str, str] = {}
    for name in names:
        folded = _folded(check_relpath(name))
        if folded in files:
            raise UnsafeName(
                f"the file names {_shown(files[folded])} and {_shown(name)} collide: {cure}"
            )
        files[folded] = name
    for folded, name in files.items():
        parent = folded
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in files:
                raise UnsafeName(
                    f"{_shown(files[parent])} is a file, and {_shown(name)} needs a folder of that"
                    f" name: {cure}"
                )


def public_url(url: str) -> str:
    """``url`` as it may be logged: no userinfo, no query, no fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme.lower(), _public_netloc(url), parts.path or "/", "", ""))


def as_browsers(url: str) -> str:
    """``url`` with its spaces, and what is not ASCII after its host, percent-encoded."""
    parts = urlsplit(url.strip(" "))
    path, query = (quote(part, _ASCII, "utf-8", "surrogateescape") for part in parts[2:4])
    return urlunsplit(parts._replace(path=path, query=query))


def url_identity(url: str) -> str:
    """``url`` as a stable, public name of what it brings.

    A query may choose the content (``?file=a``) or sign it (``?X-Amz-Signature=``). A known signing
    is dropped, so that a URL signed again stays one name; the rest enters as a digest, so that two
    files behind one path stay two. A token is part of that rest: another token means a download,
    where leaving it out could mean another's file. The digest does not tell what it is made of to
    anybody who cannot guess it.
    """
    # As it is written: who decodes may take two names for one ("+" is a space to some servers).
    query = [(_name(pair), pair) for pair in urlsplit(url).query.split("&") if pair]
    present = {name for name, _ in query}
    signings = [names for needed, names in _SIGNINGS if needed <= present]
    kept = [(k, v) for k, v in query if not any(names.fullmatch(k) for names in signings)]
    if not kept:
        return public_url(url)
    # By name alone: of two values of one name, the first may count.
    kept.sort(key=lambda pair: pair[0])
    digest = hashlib.sha256(repr(kept).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{public_url(url)}#{digest[:32]}"


def url_file_name(url: str) -> str:
    """The last component of the URL's path, percent-decoded and checked.

    ``https://host/get/?id=3`` names no file, and gets the name that browsers give it, ``download``.
    Object stores write an object's whole path into it, as ``/o/models%2Fmodel.safetensors``: of
    that, it is the last component.

    Raises:
        UnsafeName: it is not safe.
    """
    path = urlsplit(url).path
    if not path or path.endswith("/"):
        return "download"
    name = check_relpath(unquote(path.rpartition("/")[2], errors="surrogateescape"))
    return name.rpartition("/")[2]


def _name(pair: str) -> str:
    return unquote(pair.partition("=")[0], errors="surrogateescape").lower()


def http_url(url: str, field: str) -> str:
    """``url``, if it is one that can be asked.

    Raises:
        ValueError: it is not.
    """
    if not has_host(url) or urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{field} must be http:// or https:// URLs with a host")
    return url


def has_host(url: str) -> bool:
    """Whether ``url``, of whatever scheme, names a host and a port that can be dialled."""
    try:
        parts = urlsplit(url)
        # Reading the port is what makes urlsplit look at it.
        dialled = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return dialled and " " not in parts.netloc and not has_control(url)


def with_spaces(url: str) -> str:
    """As browsers send it."""
    return url.replace(" ", "%20")


def has_control(value: str) -> bool:
    return any(c < " " or c == "\x7f" for c in value)


def _problem(name: str) -> str | None:
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not valid Unicode"
    components = name.split("/")
    if not name or name.startswith("/") or _DRIVE.match(name):
        return "is empty or absolute"
    if "\\" in name or any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
        return "holds a backslash or a control character"
    if any(component in ("", ".", "..") for component in components):
        return "has an empty, '.' or '..' component"
    if size > MAX_NAME_BYTES or any(
        len(component.encode()) > MAX_COMPONENT_BYTES for component in components
    ):
        return "is too long"
    return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")


def _public_netloc(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2].lower()
