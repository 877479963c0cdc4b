"""Sign-in to Azure: DefaultAzureCredential, then a device code; and a word on which of them was used."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from phi_runtime.core.errors import NetworkError
from phi_runtime.remote.azureml.systems import Workspace

_SERVICE_PRINCIPAL = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID")
_PROOFS = ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE")
_SECRET = re.compile(r"(?i)secret|password|assertion|certificate")
_USED = re.compile(r"(?:Default\w+|Chained\w+) acquired a token from (\w+)")


def credential_of(workspace: Workspace, say: Callable[[str], None]) -> Any:
    """Return the credential for a workspace; `say` receives a device code, and the kind of credential that is used."""
    from azure.identity import DefaultAzureCredential, DeviceCodeCredential

    quiet_logs()
    settings = {key: json.loads(value) for key, value in workspace.sign_in}
    if secret := next((key for key in settings if _SECRET.search(key)), None):
        raise NetworkError(f"`default_auth_params` has `{secret}`", fix="set it in your shell: AZURE_CLIENT_SECRET")
    for name in (*_SERVICE_PRINCIPAL, *_PROOFS):
        if os.environ.get(name) == "":  # as CI sets a secret that it does not have; azure-identity refuses it
            del os.environ[name]
    if half := half_set(os.environ):
        say(half)
    logger = logging.getLogger("azure.identity")
    logger.handlers = [_Listener(say)]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    default = DefaultAzureCredential(**settings)
    is_named = any(os.environ.get(name) for name in ("AZURE_CLIENT_ID", *_PROOFS))
    if is_named or os.environ.get("CI"):  # in CI, nobody can enter a code
        return default
    tenant = {"tenant_id": os.environ["AZURE_TENANT_ID"]} if os.environ.get("AZURE_TENANT_ID") else {}
    device = DeviceCodeCredential(
        prompt_callback=lambda uri, code, _: say(f"to sign in, open {uri} and enter {code}"), **tenant
    )
    return _DefaultOrDeviceCode(default, device)


def half_set(environment: Mapping[str, str]) -> str:
    """Return a warning if the variables of a service principal are set in part; "" otherwise."""
    names = [name for name in (*_SERVICE_PRINCIPAL, *_PROOFS) if environment.get(name)]
    missing = [name for name in _SERVICE_PRINCIPAL if name not in names]
    if not set(_PROOFS) & set(names):
        missing.append(_PROOFS[0])
    used = [name for name in names if name != "AZURE_TENANT_ID"]
    if not missing or not used or names == ["AZURE_CLIENT_ID"]:  # that alone names a managed identity
        return ""
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} set, but not {' and '.join(missing)}"


def quiet_logs() -> None:
    """Keep the logs of Azure's clients out of ours: at DEBUG, urllib3 prints addresses with their signatures."""
    logging.getLogger("azure").setLevel(logging.ERROR)
    for name in ("urllib3", "msal"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _DefaultOrDeviceCode:
    """The default credential; a device code once that finds no way to sign in.

    ChainedTokenCredential does not do this: it ends with the error of the default one, which is a failure and not an absence.
    """

    def __init__(self, default: Any, device: Any) -> None:
        self._default, self._device, self._uses_device = default, device, False

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """Return a token for the scopes."""
        from azure.core.exceptions import ClientAuthenticationError

        if not self._uses_device:
            try:
                return self._default.get_token(*scopes, **options)
            except ClientAuthenticationError:
                self._uses_device = True
        return self._device.get_token(*scopes, **options)


class _Listener(logging.Handler):
    """Reports each kind of credential that returned a token, such as `AzureCliCredential`, when it changes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._say, self._used = say, ""

    def emit(self, record: logging.LogRecord) -> None:
        match = _USED.search(record.getMessage())
        if match and match[1] not in (self._used, "DefaultAzureCredential"):
            self._used = match[1]
            self._say(f"signed in to Azure with {self._used}")
