"""Uploads in parts that a killed process left unfinished: invisible, but stored, and paid for, until they are aborted.

obstore cannot list them, so S3 is asked here, by requests signed with keys from the environment or a profile. Without
such keys, and in other stores, a rule of the bucket removes them.

Source: docs.aws.amazon.com, ListMultipartUploads, AbortMultipartUpload; Signature Version 4.
"""

import hashlib
import hmac
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from html import unescape
from urllib.error import URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

from qdqcli.tensors.aws_profile import S3Account, s3_account
from qdqcli.tensors.remote_path import RemotePath

_EMPTY = hashlib.sha256(b"").hexdigest()
_TIMEOUT_S = 30.0
_ROUNDS = 100
"""Times that the uploads are listed, 1,000 each."""


def abort_uploads(output: RemotePath, keys: Collection[str]) -> None:
    """Abort the unfinished uploads of these objects below, or at, a path of S3, as far as that is possible."""
    account = s3_account() if output.scheme == "s3" else None
    if account is None:
        return
    folder = f"/{quote(output.bucket)}"
    with suppress(URLError, TimeoutError):  # the upload of a shard will tell
        for _ in range(_ROUNDS):
            found = _ask(account, "GET", folder, {"uploads": "", "prefix": output.key}).decode()
            texts = re.findall(r"<Upload>(.*?)</Upload>", found, re.DOTALL)
            uploads = [(_field(text, "Key"), _field(text, "UploadId")) for text in texts]
            ours = [(key, upload) for key, upload in uploads if key in keys]
            for key, upload in ours:
                _ask(account, "DELETE", f"{folder}/{quote(key)}", {"uploadId": upload})
            if not ours:
                return


def _field(text: str, name: str) -> str:
    found = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return unescape(found[1]) if found else ""


def _ask(account: S3Account, method: str, path: str, query: Mapping[str, str]) -> bytes:
    text = urlencode(sorted(query.items()), quote_via=quote)
    host = urlsplit(account.endpoint).netloc
    headers = signed(account, method, host, path, text, datetime.now(UTC))
    request = Request(f"{account.endpoint}{path}?{text}", method=method, headers=headers)
    with urlopen(request, timeout=_TIMEOUT_S) as answer:
        return bytes(answer.read())


def signed(account: S3Account, method: str, host: str, path: str, query: str, now: datetime) -> dict[str, str]:
    """Return the headers of a request without a body, with its signature."""
    date, time = f"{now:%Y%m%d}", f"{now:%Y%m%dT%H%M%SZ}"
    headers = {"host": host, "x-amz-content-sha256": _EMPTY, "x-amz-date": time}
    if account.token:
        headers["x-amz-security-token"] = account.token
    names = ";".join(headers)
    lines = [method, path, query, *(f"{name}:{value}" for name, value in headers.items()), "", names, _EMPTY]
    scope = f"{date}/{account.region}/s3/aws4_request"
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    key = f"AWS4{account.secret}".encode()
    for part in (date, account.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}".encode(), "sha256").hex()
    credential = f"Credential={account.key}/{scope},SignedHeaders={names},Signature={signature}"
    return headers | {"Authorization": f"AWS4-HMAC-SHA256 {credential}"}
