"""Sign-in at login.microsoftonline.com, and the endpoint of a job's managed identity."""

from __future__ import annotations

import time

from tests.azure.standin.cloud import TENANT, Cloud, encoded
from tests.azure.standin.messages import Answer, Call, as_json, refusal

BASE = f"https://login.microsoftonline.com/{TENANT}"
IDENTITY_SECRET = "CANARY-identity-secret"


def answer(cloud: Cloud, call: Call) -> Answer:
    if call.path.endswith("/discovery/instance"):
        return as_json(_instance())
    if call.path.endswith("/openid-configuration"):
        return as_json(
            {
                "issuer": f"{BASE}/v2.0",
                "token_endpoint": f"{BASE}/oauth2/v2.0/token",
                "authorization_endpoint": f"{BASE}/oauth2/v2.0/authorize",
                "device_authorization_endpoint": f"{BASE}/oauth2/v2.0/devicecode",
            }
        )
    if call.path.endswith("/devicecode"):
        cloud.device_audience = _audience(call)  # the request for the token does not repeat it
        return as_json(
            {
                "user_code": "ABCD1234",
                "device_code": "device",
                "verification_uri": "https://microsoft.com/devicelogin",
                "expires_in": 900,
                "interval": 1,
                "message": "To sign in, open https://microsoft.com/devicelogin and enter the code ABCD1234",
            }
        )
    if call.path.endswith("/token"):
        return _token(cloud, call)
    return refusal(404, "NotFound", call.path)


def managed_identity(cloud: Cloud, call: Call) -> Answer:
    """Return a token for a job, which requests it at `MSI_ENDPOINT`."""
    if call.headers.get("secret") != IDENTITY_SECRET:
        return refusal(403, "Forbidden", "the header `secret` is wrong")
    audience = call.query["resource"].removesuffix("/.default")
    expires = str(int(time.time()) + cloud.token_seconds)
    token = cloud.issue_token(audience)
    return as_json({"access_token": token, "expires_on": expires, "resource": audience, "token_type": "Bearer"})


def _token(cloud: Cloud, call: Call) -> Answer:
    form = call.form
    grant = form["grant_type"]
    if grant == "client_credentials" and form.get("client_secret") != cloud.client_secret:
        return _refused(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
    if grant.endswith("device_code"):
        cloud.device_code_polls -= 1
        if cloud.device_code_polls >= 0:
            return _refused(400, "authorization_pending", "AADSTS70016: The user has not signed in yet.")
    token = cloud.issue_token(_audience(call) or cloud.device_audience)
    return as_json(
        {
            "token_type": "Bearer",
            "expires_in": cloud.token_seconds,
            "access_token": token,
            "refresh_token": "CANARY-refresh-token",
            "id_token": token,
            "client_info": encoded({"uid": "user", "utid": TENANT}),
            "scope": form.get("scope", ""),
        }
    )


def _audience(call: Call) -> str:
    scopes = (scope for scope in call.form.get("scope", "").split(" ") if scope.startswith("https://"))
    return next(scopes, "").removesuffix("/.default")


def _refused(status: int, error: str, description: str) -> Answer:
    return as_json({"error": error, "error_description": description}, status)


def _instance() -> dict[str, object]:
    host = "login.microsoftonline.com"
    network = {
        "preferred_network": host,
        "preferred_cache": "login.windows.net",
        "aliases": [host, "login.windows.net"],
    }
    endpoint = f"{BASE}/v2.0/.well-known/openid-configuration"
    return {"tenant_discovery_endpoint": endpoint, "api-version": "1.1", "metadata": [network]}
