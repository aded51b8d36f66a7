"""Tar headers: ustar, pax and GNU's long names, parsed strictly.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

from dataclasses import dataclass

from hubdist.errors import IntegrityError, UnsafeArchiveError
from hubdist.origins.archive.members import quoted, tar_checksum_fits

BLOCK = 512
"""Bytes of a header; the data of a member is padded to a multiple of this."""

DIRECTORY = b"5"
FILES = (b"0", b"\0", b"7")
PAX, PAX_GLOBAL, GNU_LONG_NAME = b"x", b"g", b"L"

_MAX_SIZE = 1 << 60
_UTF8 = b"ISO-IR 10646 2000 UTF-8"
_MEANINGFUL = ("path", "size", "linkpath")
# star and Solaris store the data of sparse files without the holes; SCHILY.realsize is the size with the holes.
_SPARSE = ("GNU.sparse.", "SUN.holesdata", "SCHILY.realsize")


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header of a member, or of an extended header.

    Attributes:
        name: The member's path.
        kind: The type flag, one byte.
        size: Bytes of the data that follow.
    """

    name: str
    kind: bytes
    size: int


def parse_header(block: bytes, where: str) -> Header:
    """Parse one header that is not all zeros.

    Args:
        block: `BLOCK` bytes.
        where: The header's place in the archive, for errors.

    Raises:
        IntegrityError: The header is damaged or of an unknown kind.
        UnsafeArchiveError: The name is not UTF-8 or not a plain string, or the size is absurd.
    """
    if not tar_checksum_fits(block):
        raise IntegrityError(f"{where} is damaged: its checksum differs")
    magic = block[257:265]
    if magic not in (b"ustar\x0000", b"ustar  \0", bytes(8)):
        raise IntegrityError(f"{where} is of an unknown kind {magic!r}")
    name = _text(block[:100])
    prefix = _text(block[345:500]) if magic == b"ustar\x0000" else ""
    return Header(f"{prefix}/{name}" if prefix else name, block[156:157], _number(block[124:136], where))


@dataclass(slots=True)
class Extended:
    """What the extended headers say about the next member.

    Attributes:
        path: The member's path, or None if they do not say.
        size: Bytes of the member's data, or None if they do not say.
        begun: A pax header of the member was read.
    """

    path: str | None = None
    size: int | None = None
    begun: bool = False

    def add(self, kind: bytes, data: bytes, where: str) -> None:
        """Add one extended header. A second one for the same member is refused, because programs read it differently.

        Args:
            kind: `PAX`, `PAX_GLOBAL` or `GNU_LONG_NAME`.
            data: The content of the header.
            where: The header's place in the archive, for errors.

        Raises:
            UnsafeArchiveError: The header asks for something that no model needs.
            IntegrityError: The header is damaged.
        """
        if kind == GNU_LONG_NAME:
            self._set_path(_text(data), where)
            return
        records = _pax_records(data, where)
        if kind == PAX_GLOBAL:
            if records:
                raise UnsafeArchiveError(f"{where} sets a name or a size for all members")
            return
        if self.begun:
            raise UnsafeArchiveError(f"{where} is the second extended one of its member")
        self.begun = True
        if "linkpath" in records:
            raise UnsafeArchiveError(f"{where} is of a link to {quoted(records['linkpath'])}; models need no links")
        if "path" in records:
            self._set_path(records["path"], where)
        if "size" in records:
            text = records["size"]
            if not text.isascii() or not text.isdigit() or len(text) > 18:
                raise UnsafeArchiveError(f"{where} claims a size of {quoted(text)}")
            self.size = int(text)

    def _set_path(self, path: str, where: str) -> None:
        if self.path is not None:
            raise UnsafeArchiveError(f"{where} names its member twice: {quoted(self.path)} and {quoted(path)}")
        self.path = path

    def apply(self, header: Header) -> Header:
        """The member's header, with the values of the extended headers before it.

        Raises:
            UnsafeArchiveError: The member has two sizes.
        """
        name = header.name if self.path is None else self.path
        # A size that does not fit into the header's octal digits is written as 0 there.
        if self.size is not None and header.size not in (0, self.size):
            raise UnsafeArchiveError(f"{quoted(name)} has two sizes: {header.size} and {self.size}")
        return Header(name, header.kind, header.size if self.size is None else self.size)


def _text(field: bytes) -> str:
    raw, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise UnsafeArchiveError(f"the name {quoted(raw)} in a tar header has bytes behind its end")
    return _decode(raw)


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UnsafeArchiveError(f"the name {quoted(raw)} in a tar header is not UTF-8") from None


def _number(field: bytes, where: str) -> int:
    """A size: octal digits, or GNU's base 256 after a first byte of 0x80 (0xff begins a negative one)."""
    if field[0] == 0x80:
        size = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if not digits or any(digit not in b"01234567" for digit in digits):
            raise IntegrityError(f"{where} has no valid size: {field!r}")
        size = int(digits, 8)
    if size > _MAX_SIZE:
        raise UnsafeArchiveError(f"{where} claims {size} bytes")
    return size


def _pax_records(data: bytes, where: str) -> dict[str, str]:
    r"""Parse `<length> <key>=<value>\\n` records; unknown keys, such as times and owners, are ignored."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 10)
        digits = data[at:space] if space > at else b""
        end = at + int(digits) if digits.isdigit() else at
        record = data[space + 1 : end] if end > at else b""
        if end > len(data) or not record.endswith(b"\n") or b"=" not in record:
            raise IntegrityError(f"{where} is damaged, in an extended record")
        raw_key, _, raw_value = record[:-1].partition(b"=")
        key = _decode(raw_key)
        if key.startswith(_SPARSE):
            raise UnsafeArchiveError(f"{where} is of a sparse file ({quoted(key)}); models need none")
        if key == "hdrcharset" and raw_value != _UTF8:
            raise UnsafeArchiveError(f"{where} is written in {quoted(raw_value)} instead of UTF-8")
        if key in _MEANINGFUL:
            if key in records or not raw_value or b"\0" in raw_value:
                raise UnsafeArchiveError(f"{where} has a second, empty or damaged {key}: {quoted(raw_value)}")
            records[key] = _decode(raw_value)
        at = end
    return records
