"""Errors of Azure's clients as ours: one sentence, a fix, and no address with its signature."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from phi_runtime.core.errors import ConfigError, MissingDependency, NetworkError, PhiError, first_line
from phi_runtime.core.project import setup_command
from phi_runtime.remote.azureml.sign_in import half_set

CLIENT = 'pip install "azure-ai-ml>=1.34.1,<2" "azure-identity>=1.25,<2" "azure-storage-blob>=12.26,<13" "six>=1.16,<2"'


@contextmanager
def as_ours(action: str) -> Iterator[None]:
    """Turn exceptions of Azure's clients into PhiErrors; `action` is what is done, such as `submitting the job`."""
    try:
        from azure.core import exceptions
    except ImportError as e:
        raise no_client(e) from None
    try:
        yield
    except PhiError:
        raise
    except ImportError as e:
        raise no_client(e) from None
    except exceptions.ClientAuthenticationError as e:
        raise _not_signed_in(e) from None
    except exceptions.HttpResponseError as e:
        raise _refused(action, e.status_code or 0, _message(e), _code(e)) from None
    except exceptions.AzureError as e:
        what = f"Azure does not answer while {action}: {_short(e)}"
        raise NetworkError(what, fix="check the network and HTTPS_PROXY, and run the same command again") from None
    except Exception as e:
        if type(e).__module__.startswith("azure."):  # of validation: JSON over many lines
            raise ConfigError(
                f"Azure ML's client refuses the job: {_validation(e)}", fix="check the system in the config"
            ) from None
        raise


def no_client(error: ImportError) -> MissingDependency:
    """Return the error for a missing or incomplete client."""
    fix = f"run `{setup_command('azure')}` in the project, or here: {CLIENT}"
    return MissingDependency(f"Azure's client is not installed here ({error.name or error})", fix=fix)


def _not_signed_in(error: Exception) -> NetworkError:
    fix = "sign in with `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
    if half := half_set(os.environ):
        return NetworkError(f"Azure refuses the sign-in: {half}", fix="set all of them, or none")
    lines = str(error).splitlines()  # the reason is below the names of the credentials that were tried
    reason = next((line for word in ("AADSTS", "failed") for line in lines if word in line), _short(error))
    return NetworkError(f"Azure refuses the sign-in: {reason.strip()}", fix=fix)


def _refused(action: str, status: int, message: str, code: str) -> NetworkError:
    what = f"Azure answers {status}{f' {code}' if code else ''} while {action}: {message}"
    fixes = {
        401: "sign in again: az login",
        403: "ask for the role `AzureML Data Scientist` in the workspace",
        404: "check `azureml_client` and `aml_compute` in the config",
        429: "wait a minute, and run the same command again",
    }
    fix = fixes.get(status, "run the same command again" if status >= 500 else "check the system in the config")
    return NetworkError(what, fix=fix)


def _code(error: Any) -> str:
    return str(getattr(getattr(error, "error", None), "code", "") or "")


def _message(error: Any) -> str:
    details = getattr(getattr(error, "error", None), "message", "") or getattr(error, "message", "") or str(error)
    return _short(details)


def _short(text: object) -> str:
    return first_line(str(text))[:300] or "no reason given"


def _validation(error: Exception) -> str:
    """Return the first message of a validation error of azure-ai-ml, which is JSON in a text."""
    text = str(error)
    match = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        found = json.loads(match[0]) if match else {}
        first = (found.get("errors") or [{}])[0]
        return f"{first.get('path', '')}: {first.get('message', '')}".strip(": ") or _short(text)
    except (ValueError, AttributeError, IndexError):
        return _short(text)
