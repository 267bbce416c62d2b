"""Forms as clients write them, and forms that are spelled so that some reader sees a field where another does not."""

from typing import Final

from tests.support.form_readers import Form

# Shorter than what is seen by its length alone.
VICTIM: Final = "file-VICTIM0001"
TYPE: Final = b"multipart/form-data; boundary=B123"
HIDDEN: Final = f'Content-Disposition: form-data; name="file_id"\r\n\r\n{VICTIM}'
OPEN: Final = 'Content-Disposition: form-data; name="a"\r\n\r\n'
LARGE: Final = "x" * 2**20


def _of(*parts: str, end: str = "\r\n--B123--\r\n", before: str = "") -> Form:
    return TYPE, (before + "--B123\r\n" + "\r\n--B123\r\n".join(parts) + end).encode("utf-8", "surrogateescape")


def _head(line: str, value: str = VICTIM) -> Form:
    return _of(f"{line}\r\n\r\n{value}")


def _typed(content_type: str, body: str) -> Form:
    return content_type.encode(), body.encode()


def _of_field(more: str, value: str) -> Form:
    return _head(f'Content-Disposition: form-data; name="file_id"\r\n{more}', value)


_INNER: Final = "--C\r\n" + HIDDEN + "\r\n--C--"

# By what is odd. Each may give the victim's id to some reader.
SPELLINGS: Final[dict[str, Form]] = {
    "a delimiter within a line": _of(OPEN + '{"a":"--B123","file_id":"' + VICTIM + '"}'),
    "a delimiter within a line, as a part": _of(OPEN + "x--B123\r\n" + HIDDEN),
    "a delimiter in a head": _of('Content-Disposition: form-data; name="--B123"\r\n\r\nx', HIDDEN),
    "a delimiter behind LF": _of(OPEN + "x\n--B123\r\n" + HIDDEN),
    "a delimiter behind CR": _of(OPEN + "x\r--B123\r\n" + HIDDEN),
    "a delimiter before LF": _of(OPEN + "x\r\n--B123\n" + HIDDEN),
    "a delimiter before CR": _of(OPEN + "x\r\n--B123\r" + HIDDEN),
    "LF, then CRLF": (TYPE, f"--B123\n{OPEN}x\r\n--B123\r\n{HIDDEN}\r\n--B123--".encode()),
    "LF alone": (TYPE, f"--B123\n{OPEN}x\n--B123\n{HIDDEN}\n--B123--\n".replace("\r", "").encode()),
    "LF alone, CRLF in a head": (TYPE, f"--B123\n{OPEN}x\n--B123\n{HIDDEN}\n--B123--\n".encode()),
    "a delimiter with blanks": _of(OPEN + "x\r\n--B123 \t\r\n" + HIDDEN),
    "a longer delimiter": _of(OPEN + "x\r\n--B1234\r\n" + HIDDEN),
    "a delimiter with one hyphen": _of(OPEN + "x\r\n--B123-\r\n" + HIDDEN),
    "a delimiter right behind a head": _of(OPEN + "--B123\r\n" + HIDDEN),
    "a delimiter in place of a blank line": _of('Content-Disposition: form-data; name="a"\r\n--B123\r\n' + HIDDEN),
    "no last delimiter": _of(OPEN + "x", HIDDEN, end=""),
    "a part behind the last delimiter": _of(OPEN + "x", end="\r\n--B123--\r\n--B123\r\n" + HIDDEN + "\r\n--B123--\r\n"),
    "text behind the last delimiter": _of(OPEN + "x", end="\r\n--B123--\r\n" + HIDDEN),
    "text on the last line": _of(OPEN + "x", end="\r\n--B123--x\r\n" + HIDDEN),
    "text before the first delimiter": _of(OPEN + "x", before=HIDDEN + "\r\n"),
    "a line before the first delimiter": _of(HIDDEN, before="\r\n"),
    "a blank before the first delimiter": _of(HIDDEN, before=" "),
    "a mark before the first delimiter": _of(HIDDEN, OPEN + "x", before="\ufeff"),
    "a mark and a line before it": _of(HIDDEN, before="\ufeff\r\n"),
    "no head": _of(f"\r\n{VICTIM}"),
    "no disposition": _head("Content-Type: text/plain; name=file_id"),
    "another disposition": _head('Content-Disposition: attachment; name="file_id"'),
    "two dispositions": _head('Content-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="file_id"'),
    "two names": _head('Content-Disposition: form-data; name="a"; name="file_id"'),
    "two names, the other first": _head('Content-Disposition: form-data; name="file_id"; name="a"'),
    "a name in another parameter": _head('Content-Disposition: form-data; name="a"; filename="\\"; name=file_id; x="'),
    "an escape at the end of a parameter": _head('Content-Disposition: form-data; filename="\\"; name="file_id"'),
    "a name in parts": _head("Content-Disposition: form-data; name*0=file; name*1=_id"),
    "an extended name": _head("Content-Disposition: form-data; name*=utf-8''file%5Fid"),
    "both names": _head("Content-Disposition: form-data; name=a; name*=utf-8''file%5Fid"),
    "an escaped name": _head('Content-Disposition: form-data; name="file\\_id"'),
    "a name in percent": _head('Content-Disposition: form-data; name="file%5Fid"'),
    "an encoded word": _head('Content-Disposition: form-data; name="=?utf-8?q?file=5Fid?="'),
    "another blank before a name": _head('Content-Disposition: form-data;\u3000name="file_id"'),
    "blanks around the sign": _head('Content-Disposition: form-data; name = "file_id"'),
    "single quotes": _head("Content-Disposition: form-data; name='file_id'"),
    "no quotes": _head("Content-Disposition: form-data; name=file_id"),
    "a quote that does not end": _head('Content-Disposition: form-data; name="file_id'),
    "capitals": _head('CONTENT-DISPOSITION: FORM-DATA; NAME="file_id"'),
    "a folded head": _head('Content-Disposition: form-data;\r\n name="file_id"'),
    "a folded name": _head('Content-Disposition: form-data; name="file\r\n _id"'),
    "a blank before the colon": _head('Content-Disposition : form-data; name="file_id"'),
    "a line that is no header": _head('nothing\r\nContent-Disposition: form-data; name="file_id"'),
    "LF in a head": _head('X: y\nContent-Disposition: form-data; name="file_id"'),
    "CR in a head": _head('X: y\rContent-Disposition: form-data; name="file_id"'),
    "a head that ends with LF": _head(f'Content-Disposition: form-data; name="file_id"\n\n{VICTIM}', "x"),
    "NUL in a head": _head('Content-Disposition: form-data; name="file_id\0"'),
    "a mark before the name": _head('Content-Disposition: form-data; name="\ufefffile_id"'),
    "a mark before the value": _of_field("X: y", "\ufeff" + VICTIM),
    "a mark before a value that is no known field's": _of(OPEN + "\ufeff" + VICTIM),
    "base64": _of_field("Content-Transfer-Encoding: base64", "ZmlsZS1WSUNUSU0wMDAx"),
    "quoted printable": _of_field("Content-Transfer-Encoding: quoted-printable", "=66ile-VICTIM0001"),
    "two encodings": _of_field("Content-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: base64", "ZmlsZS1WSUNUSU0wMDAx"),
    "quoted printable at last": _of_field(
        "content-transfer-encoding:quoted-printable\r\nContent-Transfer-Encoding: 8bit", "=66ile-VICTIM0001"
    ),
    "a coding": _of_field("Content-Encoding: gzip", VICTIM),
    "utf-7": _of_field("Content-Type: text/plain; charset=utf-7", "+AGY-ile-VICTIM0001"),
    "utf-16": _of_field('Content-Type: text/plain; charset="utf-16"', "\0".join(VICTIM)),
    "an extended charset": _of_field("Content-Type: text/plain; charset*=''utf-7", "+AGY-ile-VICTIM0001"),
    "the charset of all": _of('Content-Disposition: form-data; name="_charset_"\r\n\r\nutf-7', HIDDEN),
    "a form in a part": _head('Content-Disposition: form-data; name="a"\r\nContent-Type: multipart/mixed; boundary=C', _INNER),
    "a message in a part": _head('Content-Disposition: form-data; name="a"\r\nContent-Type: message/rfc822', HIDDEN),
    "escapes in JSON": _of(OPEN + '{"f\\u0069le_id":"\\u0066ile\\u002dVICTIM0001"}'),
    "escapes in large JSON": _of(OPEN + '{"x":"' + LARGE + '","file_id":"f\\u0069l\\u0065-VICTIM0001"}'),
    "escapes in a file of JSON": _of(
        'Content-Disposition: form-data; name="a"; filename="a"\r\n\r\n{"file_id":"\\u0066ile-VICTIM0001"}'
    ),
    "a large blank before it": _of_field("X: y", " " * 2**20 + VICTIM),
    "a file called so": _head(f'Content-Disposition: form-data; name="a"; filename="{VICTIM}"', "x"),
    "a file called so, escaped": _head('Content-Disposition: form-data; name="a"; filename="\\file-VICTIM0001"', "x"),
    "a file called so, extended": _head("Content-Disposition: form-data; name=\"a\"; filename*=utf-8''%66ile-VICTIM0001", "x"),
    "a field called so": _head(f'Content-Disposition: form-data; name="a[{VICTIM}]"', "x"),
    "two boundaries": _typed("multipart/form-data; boundary=A; boundary=B123", _of(HIDDEN)[1].decode()),
    "a boundary in parts": _typed("multipart/form-data; boundary*0=B1; boundary*1=23", _of(HIDDEN)[1].decode()),
    "a boundary with a blank": _typed('multipart/form-data; boundary="B123 "', _of(HIDDEN)[1].decode()),
    "a boundary in brackets": _typed("multipart/form-data; boundary=<B123>", _of(HIDDEN)[1].decode()),
    "an encoded boundary": _typed('multipart/form-data; boundary="=?utf-8?q?B123?="', _of(HIDDEN)[1].decode()),
    "an escaped boundary": _typed('multipart/form-data; boundary="B\\123"', _of(HIDDEN)[1].decode()),
    "a boundary in single quotes": _typed("multipart/form-data; boundary='B123'", _of(HIDDEN)[1].decode()),
    "a boundary in capitals": _typed("Multipart/Form-Data; BOUNDARY=B123", _of(HIDDEN)[1].decode()),
}

_FILE: Final = "PNG\r\n\0\xff--B12\r\n--\r\n\r\nend\n"
# As clients write them: a text and a file, which every reader must give as they are.
HONEST: Final[dict[str, Form]] = {
    "httpx, as of openai-python": _of(
        'Content-Disposition: form-data; name="prompt"\r\n\r\na cat',
        f'Content-Disposition: form-data; name="image"; filename="a \'b\' %22.png"\r\nContent-Type: image/png\r\n\r\n{_FILE}',
    ),
    "undici, as of openai-node": (
        b"multipart/form-data; boundary=----formdata-undici-012345678901",
        (
            '------formdata-undici-012345678901\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na cat\r\n'
            '------formdata-undici-012345678901\r\nContent-Disposition: form-data; name="image"; filename="ä.png"\r\n'
            f"Content-Type: image/png\r\n\r\n{_FILE}\r\n------formdata-undici-012345678901--\r\n"
        ).encode(),
    ),
    "curl": (
        b"multipart/form-data; boundary=------------------------d74496d66958873e",
        (
            '--------------------------d74496d66958873e\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na cat\r\n'
            '--------------------------d74496d66958873e\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
            f"Content-Type: application/octet-stream\r\n\r\n{_FILE}\r\n--------------------------d74496d66958873e--\r\n"
        ).encode(),
    ),
    "aiohttp": _of(
        'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na cat',
        f'Content-Type: image/png\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n{_FILE}',
    ),
    "OkHttp": _of(
        'Content-Disposition: form-data; name="prompt"\r\nContent-Transfer-Encoding: binary\r\n'
        "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\na cat",
        'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n'
        f"Content-Length: {len(_FILE.encode())}\r\n\r\n{_FILE}",
    ),
    ".NET": _typed(
        'multipart/form-data; boundary="B123"',
        "--B123\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=prompt\r\n\r\na cat\r\n"
        "--B123\r\nContent-Disposition: form-data; name=image; filename=a.png; filename*=utf-8''a.png\r\n\r\n"
        f"{_FILE}\r\n--B123--\r\n",
    ),
    "Apache HttpClient": _of(
        'Content-Disposition: form-data; name="prompt"\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n'
        "Content-Transfer-Encoding: 8bit\r\n\r\na cat",
        'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n'
        f"Content-Transfer-Encoding: binary\r\n\r\n{_FILE}",
    ),
    "Go": _of(
        'Content-Disposition: form-data; name="prompt"\r\n\r\na cat',
        'Content-Disposition: form-data; name="image"; filename="a \\"b\\" name=\\\\c 50%.png"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n{_FILE}",
    ),
}
