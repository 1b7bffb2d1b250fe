"""Settings of S3 from where the tools of AWS keep them: the environment, and the profiles in `~/.aws`.

obstore reads the environment and the machine's metadata service, but no profiles. A profile with keys is read here;
one that says how to get keys (a role, a single sign-on) is left to boto3, where that is installed.
"""

import os
import re
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass, field
from pathlib import Path

from qdqcli.errors import UnavailableError
from qdqcli.escape import escape_name

_KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "region": "region",
    "endpoint_url": "endpoint",
}
"""Name in a profile -> name of the store's setting."""


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """Options of obstore beyond those that it finds itself."""

    store_options: dict[str, object] = field(default_factory=dict)
    client_options: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class S3Account:
    """Keys, and where they hold."""

    key: str
    secret: str
    token: str
    region: str
    endpoint: str
    """URL of the server, without a slash at its end."""


def s3_account() -> S3Account | None:
    """Return the account of the environment or the profile; None where neither has keys."""
    found = _profile_settings()
    environment = {name: os.environ[name.upper()] for name in _KEYS if name.upper() in os.environ}
    if "aws_access_key_id" in environment:
        found = {name: value for name, value in found.items() if name not in _KEYS or not name.startswith("aws_")}
    found |= environment
    if "aws_access_key_id" not in found or "aws_secret_access_key" not in found:
        return None
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or found.get("region", "us-east-1")
    endpoint = _endpoint() or found.get("endpoint_url") or f"https://s3.{region}.amazonaws.com"
    return S3Account(
        key=found["aws_access_key_id"],
        secret=found["aws_secret_access_key"],
        token=found.get("aws_session_token", ""),
        region=region,
        endpoint=endpoint.rstrip("/"),
    )


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def s3_options() -> S3Options:
    """Return the options that the environment and the profile add.

    Raises:
        UnavailableError: the profile is missing, or needs boto3; a variable is malformed.
    """
    found = _profile_settings()
    _check_environment()
    config = {name: found[key] for key, name in _KEYS.items() if key in found}
    endpoint = _endpoint() or config.get("endpoint", "")
    if endpoint and not re.fullmatch(r"(?i)https?://[^\s/]+(/\S*)?", endpoint):
        raise UnavailableError(
            f"AWS_ENDPOINT_URL: '{escape_name(endpoint)}' is not the URL of a server; give https://HOST[:PORT]"
        )
    config |= {"endpoint": endpoint} if endpoint else {}
    if os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        config.pop("region", None)
    if "AWS_ACCESS_KEY_ID" in os.environ:
        for name in ("access_key_id", "secret_access_key", "session_token"):
            config.pop(name, None)
    return S3Options(
        store_options={"config": config} | _provider(found),
        client_options={"allow_http": True} if endpoint.lower().startswith("http://") else {},
    )


def _check_environment() -> None:
    """Refuse white space in the variables of S3, often the end of a line of a secret's file: obstore panics."""
    for name in (*(key.upper() for key in _KEYS if key.startswith("aws_")), "AWS_REGION", "AWS_DEFAULT_REGION"):
        if re.search(r"[^!-~]", os.environ.get(name, "")):
            raise UnavailableError(f"{name}: contains white space or other characters that no key has; set it without")


def _profile_settings() -> dict[str, str]:
    """Return the settings of the profile, the default one if none is chosen."""
    name = os.environ.get("AWS_PROFILE") or "default"
    found: dict[str, str] = {}
    for variable, file, section in (
        ("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
    ):
        parser = ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(Path(os.environ.get(variable) or f"~/.aws/{file}").expanduser(), encoding="utf-8")
        except (OSError, ConfigError, UnicodeDecodeError):
            continue
        if parser.has_section(section):
            found |= dict(parser.items(section))
    if not found and os.environ.get("AWS_PROFILE"):
        raise UnavailableError(f"AWS_PROFILE: there is no profile '{escape_name(name)}' in ~/.aws; correct its name")
    return found


def _provider(profile: dict[str, str]) -> dict[str, object]:
    """Return the option that gets keys as the profile says, where it has none itself."""
    if "AWS_ACCESS_KEY_ID" in os.environ or "aws_access_key_id" in profile:
        return {}
    if not any(key in profile for key in ("role_arn", "sso_session", "sso_start_url", "credential_process")):
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ModuleNotFoundError:
        raise UnavailableError(
            "the profile of ~/.aws has no keys but says how to get them, which needs the package boto3; pip install "
            "boto3, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    return {"credential_provider": Boto3CredentialProvider()}
