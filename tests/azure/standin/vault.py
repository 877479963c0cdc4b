"""Key Vault: the first request, which has no token, is answered with a challenge."""

from __future__ import annotations

from tests.azure.standin.cloud import TENANT, Cloud
from tests.azure.standin.messages import Answer, Call, as_json, refusal

RESOURCE = "https://vault.azure.net"


def answer(cloud: Cloud, call: Call) -> Answer:
    if cloud.unauthorized(call, RESOURCE):
        authority = f"https://login.microsoftonline.com/{TENANT}"
        challenge = {"WWW-Authenticate": f'Bearer authorization="{authority}", resource="{RESOURCE}"'}
        return refusal(401, "Unauthorized", "AKV10000: Request is missing a Bearer or PoP token.", challenge)
    name = call.path.split("/")[2]
    if name not in cloud.secrets:
        return refusal(404, "SecretNotFound", f"A secret with (name/id) {name} was not found in this key vault.")
    attributes = {"enabled": True, "created": 1, "updated": 1}
    identifier = f"https://{call.host}/secrets/{name}/1"
    return as_json({"value": cloud.secrets[name], "id": identifier, "attributes": attributes})
