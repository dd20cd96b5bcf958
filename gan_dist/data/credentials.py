"""Open buckets with the credentials that each cloud's own tools use. Nothing here keeps or shows one."""

import configparser
import os
import re
from pathlib import Path
from typing import Any

_AWS = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
_AWS_FULL = "AWS_CONTAINER_CREDENTIALS_FULL_URI"


def bucket(base: str, options: dict[str, Any], retries: Any) -> Any:
    """Return obstore's store of a bucket (s3, gs, az), with what the environment, config files or the machine give.

    object_store reads the environment and asks the machine's metadata; what AWS's tools read from files is added here.
    """
    from obstore import store

    scheme, _, name = base.partition("://")
    common: dict[str, Any] = {"client_options": options, "retry_config": retries}
    if scheme in ("s3", "s3a"):
        return store.S3Store(name, **_aws(), **common)
    if scheme in ("gs", "gcs"):
        return store.GCSStore(name, **common)
    return store.AzureStore.from_url(base, **common) if "@" in name else store.AzureStore(name, **common)


def _aws() -> dict[str, Any]:
    """Return what ~/.aws/credentials and ~/.aws/config say of the profile, where the environment has no keys."""
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    credentials = _section("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile)
    config = _section("AWS_CONFIG_FILE", "config", profile if profile == "default" else f"profile {profile}")
    found: dict[str, Any] = {}
    environment = {name.upper() for name in os.environ}
    if not environment & {"AWS_REGION", "AWS_DEFAULT_REGION"} and (region := config.get("region")):
        found["region"] = region
    endpoints = {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"}
    if not environment & endpoints and (endpoint := config.get("endpoint_url")):
        found["endpoint"] = endpoint
    if environment & {*_AWS, _AWS_FULL} or os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes"):
        return found
    keys = credentials if "aws_access_key_id" in credentials else config
    if "aws_access_key_id" in keys:
        found["access_key_id"] = keys["aws_access_key_id"]
        found["secret_access_key"] = keys.get("aws_secret_access_key", "")
        if token := keys.get("aws_session_token"):
            found["session_token"] = token
    elif {"sso_session", "sso_start_url", "credential_process", "role_arn", "login_session"} & {*config, *credentials}:
        from gan_dist.errors import InputError

        try:
            from obstore.auth.boto3 import Boto3CredentialProvider  # it knows all kinds of profile
        except ImportError:
            raise InputError(
                f"data.shards: the AWS profile {profile} needs boto3; `pip install boto3`, or export keys: "
                'eval "$(aws configure export-credentials --format env)"'
            ) from None
        found["credential_provider"] = Boto3CredentialProvider()
    return found


def _section(variable: str, name: str, section: str) -> dict[str, str]:
    try:
        path = Path(os.environ.get(variable) or Path.home() / ".aws" / name)
        parser = configparser.RawConfigParser()
        parser.read(path)
        return dict(parser[section]) if parser.has_section(section) else {}
    except (configparser.Error, OSError, RuntimeError, UnicodeDecodeError):  # a file that AWS's own tools refuse too
        return {}


_WHERE = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws (AWS_PROFILE), or the machine's role; for a public bucket set "
    "AWS_SKIP_SIGNATURE=true",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login`",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}


def _where(name: str) -> str:
    scheme = name.partition("://")[0]
    return _WHERE.get({"s3a": "s3", "gcs": "gs"}.get(scheme, scheme), _WHERE["az"])


def are_missing(text: str) -> bool:
    """Say whether a request failed before it was made, as no credentials were found: the last place is the machine itself."""
    return any(word in text for word in ("169.254.169.254", "metadata.google", "MissingAccount", "CredentialNotFound"))


def missing(name: str) -> str:
    """Return that there are no credentials, and where they are looked for."""
    return f"no credentials were found; give them by {_where(name)}"


def denied(name: str, code: int, text: str) -> str:
    """Return why access was refused, and what to do."""
    if name.partition("://")[0] in ("http", "https"):
        if re.search("expired", text, re.IGNORECASE):
            return f"the signed address has expired ({code}); sign it again"
        return f"the server refuses access ({code}); a signed address may have expired, or needs another key"
    if re.search("ExpiredToken|TokenRefreshRequired|token.{0,20}expired", text):
        return f"the credentials have expired ({code}); renew them"
    return f"access is refused ({code}); check the credentials: {_where(name)}"


def refused(kind: str, code: int, text: str) -> str:
    """Return why a request was not accepted."""
    if code == 301 or "incorrectly configured region" in text:
        return "the bucket lies in another region; set AWS_REGION"
    if kind == "InvalidPathError":
        return "its path is not one that a store can have"
    if code:
        return f"the server does not accept the request ({code})"
    return "the store cannot be opened; check the address and the variables of its cloud"
