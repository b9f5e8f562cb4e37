"""Servers: what they are told of who asks, and what their answers mean."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from stitchsafe.volumes._tensorstore import first_line

__all__ = ["explained", "is_unreachable", "s3_access"]


def s3_access() -> dict[str, Any]:
    """Endpoint, region and credentials, as the standard variables and files say.

    The kind of credentials is named outright: tried one after the other by the library, the ones
    that are absent would be complained about on stderr.
    """
    given = os.environ
    access: dict[str, Any] = {}
    endpoint = given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL")
    region = given.get("AWS_REGION") or given.get("AWS_DEFAULT_REGION")
    if endpoint:
        access["endpoint"] = endpoint.rstrip("/")
        region = region or "us-east-1"
    if region:
        access["aws_region"] = region
    roles = ("AWS_CONTAINER_CREDENTIALS_", "AWS_WEB_IDENTITY_TOKEN_FILE")
    credentials, config = (
        Path(given.get(name, default)).expanduser()
        for name, default in (
            ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
            ("AWS_CONFIG_FILE", "~/.aws/config"),
        )
    )
    kind: dict[str, str] = {"type": "anonymous"}
    if given.get("AWS_ACCESS_KEY_ID") and given.get("AWS_SECRET_ACCESS_KEY"):
        kind = {"type": "environment"}
    elif any(name.startswith(roles) for name in given):
        kind = {"type": "default"}
    elif credentials.is_file():
        # The library knows no default of any of these, and complains of a file that is not there.
        kind = {
            "type": "profile",
            "profile": given.get("AWS_PROFILE", "default"),
            "credentials_file": str(credentials),
            "config_file": str(config if config.is_file() else os.devnull),
        }
    elif config.is_file():
        kind = {"type": "default"}
    return {**access, "aws_credentials": kind}


def explained(error: BaseException) -> str:
    """What a server's answer means, and what to do."""
    text = first_line(error)
    if "NoSuchBucket" in text:
        return "names a bucket that does not exist; check its name and AWS_ENDPOINT_URL"
    if "PERMISSION_DENIED" in text or "UNAUTHENTICATED" in text or "code='403'" in text:
        return (
            "may not be accessed (the server forbids it); check the name, and for S3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if "create credentials" in text:
        profile = os.environ.get("AWS_PROFILE", "default")
        return (
            f"needs credentials, and none are found for the profile {profile!r}; check AWS_PROFILE "
            "and ~/.aws/credentials"
        )
    if "ignored by server" in text:
        return (
            "lies on a web server that hands out whole files only, while archives and shards are "
            "read in parts; use a server that knows byte ranges, or download it"
        )
    if is_unreachable(error):
        answer = re.search(r"code='(5\d\d)'|HTTP code (5\d\d)", str(error))
        reason = _short(text.split("failed: ", 1)[-1])
        if answer is not None:
            reason = f"the server answers {answer.group(1) or answer.group(2)}"
        return (
            f"cannot be reached, after several attempts ({reason}); check the address and the "
            "network"
        )
    return f"cannot be used: {_short(text)}; check the address"


def is_unreachable(error: BaseException) -> bool:
    """Whether a request failed for want of an answer, after all attempts."""
    text = str(error)
    return any(sign in text for sign in ("retry attempts failed", "UNAVAILABLE", "CURL error"))


def _short(text: str) -> str:
    return re.sub(r"\s*\[[\w-]+='[^']*'?\]?", "", text)[:160]
