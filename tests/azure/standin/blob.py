"""Azure Blob Storage: upload in one request or in blocks, metadata, lists in pages, and reads by range, all with a signature."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import formatdate
from itertools import islice
from xml.sax.saxutils import escape

from tests.azure.standin.cloud import Blob, Cloud, md5
from tests.azure.standin.messages import Answer, Call, storage_refusal

METADATA = "x-ms-meta-"


def answer(cloud: Cloud, call: Call) -> Answer:
    container, _, name = call.path.strip("/").partition("/")
    if not cloud.is_signed(container, call.query.get("sig", "")):
        return storage_refusal(403, "AuthenticationFailed")
    with cloud.lock:
        if call.method == "PUT":
            return _put(cloud, call, container, name)
        if call.query.get("comp") == "list":
            return _list(cloud, call, container)
        blob = cloud.blobs.get(container, {}).get(name)
        if not name:
            return Answer(200, headers=_stamp('"0x1"'))
        if blob is None:
            return storage_refusal(404, "BlobNotFound")
        return _get(call, blob)


def _put(cloud: Cloud, call: Call, container: str, name: str) -> Answer:
    blobs, part = cloud.blobs.setdefault(container, {}), call.query.get("comp")
    metadata = {key[len(METADATA) :]: value for key, value in call.headers.items() if key.startswith(METADATA)}
    if part == "block":
        blobs[f"{name}?{call.query['blockid']}"] = Blob(bytearray(call.body))
        return Answer(201, headers=_stamp('"0x1"'))
    if part == "metadata":
        if name not in blobs:
            return storage_refusal(404, "BlobNotFound")
        blobs[name].metadata = metadata
        return Answer(200, headers=_stamp(blobs[name].tag))
    if call.headers.get("if-none-match") == "*" and name in blobs:
        return storage_refusal(409, "BlobAlreadyExists")
    data = bytearray(call.body)
    if part == "blocklist":
        blocks = re.findall(r"<(?:Latest|Uncommitted)>(.*?)</", call.body.decode())
        data = bytearray(b"".join(blobs.pop(f"{name}?{block}").data for block in blocks))
    if name:
        blobs[name] = Blob(data, metadata)
    return Answer(201, headers=_stamp(blobs[name].tag if name else '"0x1"') | {"Content-MD5": md5(call.body)})


def _get(call: Call, blob: Blob) -> Answer:
    if call.headers.get("if-match", blob.tag) != blob.tag:
        return storage_refusal(412, "ConditionNotMet")
    size = len(blob.data)
    headers = _stamp(blob.tag) | {"x-ms-blob-type": "BlockBlob", "Accept-Ranges": "bytes"}
    headers |= {"Content-Type": "application/octet-stream", **{f"{METADATA}{k}": v for k, v in blob.metadata.items()}}
    if call.method == "HEAD":
        return Answer(200, headers=headers | {"Content-Length": str(size), "Content-MD5": md5(blob.data)})
    requested = call.headers.get("x-ms-range") or call.headers.get("range")
    if not requested:
        return Answer(200, bytes(blob.data), headers | {"Content-MD5": md5(blob.data)})
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", requested)
    if match is None or int(match[1]) >= size:
        return storage_refusal(416, "InvalidRange")
    first, last = int(match[1]), min(int(match[2] or size), size - 1)
    return Answer(206, bytes(blob.data[first : last + 1]), headers | {"Content-Range": f"bytes {first}-{last}/{size}"})


def _list(cloud: Cloud, call: Call, container: str) -> Answer:
    blobs, prefix, delimiter = cloud.blobs.get(container, {}), call.query.get("prefix", ""), call.query.get("delimiter")
    entries = _entries(sorted(name for name in blobs if name.startswith(prefix) and "?" not in name), prefix, delimiter)
    after, size = call.query.get("marker", ""), min(cloud.page, int(call.query.get("maxresults", cloud.page)))
    page = list(islice((entry for entry in entries if entry >= after), size + 1))
    following = page.pop() if len(page) > size else ""
    items = "".join(_item(name, blobs.get(name)) for name in page)
    xml = (
        f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{container}">'
        f"<Prefix>{escape(prefix)}</Prefix><Blobs>{items}</Blobs>"  # without Prefix, clients forget it on the next page
        f"<NextMarker>{escape(following)}</NextMarker></EnumerationResults>"
    )
    return Answer(200, xml.encode(), {"Content-Type": "application/xml"})


def _entries(names: list[str], prefix: str, delimiter: str | None) -> Iterator[str]:
    """Yield the names, those below a folder as the folder, once."""
    last = None
    for name in names:
        rest = name[len(prefix) :]
        folder = delimiter and delimiter in rest
        entry = prefix + rest.split(str(delimiter))[0] + str(delimiter) if folder else name
        if entry != last:
            yield entry
        last = entry


def _item(name: str, blob: Blob | None) -> str:
    if blob is None:
        return f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>"
    return (
        f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>{formatdate(usegmt=True)}</Last-Modified>"
        f"<Etag>{blob.tag.strip(chr(34))}</Etag><Content-Length>{len(blob.data)}</Content-Length>"
        f"<Content-MD5>{md5(blob.data)}</Content-MD5><BlobType>BlockBlob</BlobType></Properties></Blob>"
    )


def _stamp(tag: str) -> dict[str, str]:
    encrypted = {"x-ms-request-server-encrypted": "true"}
    return {"ETag": tag, "Last-Modified": formatdate(usegmt=True), "x-ms-version": "2026-02-06", **encrypted}
