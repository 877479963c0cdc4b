"""Checks of the way to the hub: its answer, the proxy and the clock, and the login."""

from __future__ import annotations

import os
import ssl
import time
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener, getproxies, proxy_bypass

from phi_runtime.core.hub_id import hub_address, hub_home, is_offline
from phi_runtime.core.units import duration
from phi_scaffold.doctor.check import Check, Level, Needs

_TIMEOUT_S = 5
_CLOCK_OFF_S = 300  # signed requests and certificates tolerate minutes


def network_checks(needs: Needs) -> list[Check]:
    """Request the address of the hub without a login; check that it answers, and the clock against its date."""
    site = hub_address()
    host = urlsplit(site).hostname or site
    if is_offline():
        fix = "unset HF_HUB_OFFLINE" if needs.download else ""
        message = "HF_HUB_OFFLINE is set, and the base model is not downloaded" if needs.download else "offline, as set"
        return [Check("error" if needs.download else "good", "hub", message, fix, False)]
    if urlsplit(site).scheme not in ("http", "https"):
        return [Check("note", "hub", f"HF_ENDPOINT is no address: {site}", "unset HF_ENDPOINT", False)]
    try:
        # urlopen would keep the proxy of the first request of the process.
        with build_opener().open(Request(site, method="HEAD"), timeout=_TIMEOUT_S) as response:
            date = response.headers.get("Date")
    except HTTPError as e:  # an answer, too
        if e.code == 407:
            return [_no_answer(site, host, needs, e)]
        date = e.headers.get("Date")
    except (URLError, OSError, HTTPException, ValueError) as e:
        return [_no_answer(site, host, needs, e)]
    return [Check("good", "hub", f"{host} answers", value=True), *_clock(host, date)]


def _no_answer(site: str, host: str, needs: Needs, error: Exception) -> Check:
    """Return why the hub does not answer: the certificate, the proxy, or the network."""
    level: Level = "error" if needs.download else "note"
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        message = f"the certificate of {host} is not accepted: {reason.verify_message}"
        return Check(level, "hub", message, "check the clock, or set SSL_CERT_FILE to the proxy's certificate", False)
    scheme = urlsplit(site).scheme
    proxy = "" if proxy_bypass(host) else getproxies().get(scheme, "")
    if proxy:
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        shown = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)  # without a password
        name = f"{scheme.upper()}_PROXY"
        fix = f"correct {name}, or unset it: it is {shown}"
        return Check(level, "proxy", f"the proxy {shown} does not connect to {host}: {reason}", fix, False)
    needed = "the base model is not downloaded" if needs.download else "models on this machine work offline"
    fix = "check the network; `phi-scaffold fetch` then downloads the base model" if needs.download else ""
    return Check(level, "hub", f"{host} does not answer; {needed}", fix, False)


def _clock(host: str, date: str | None) -> list[Check]:
    """Return the difference to the date of an answer; nothing if it has none."""
    try:
        off_s = time.time() - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return []
    if abs(off_s) <= _CLOCK_OFF_S:
        return [Check("good", "clock", f"as that of {host}", value=round(off_s))]
    side = "ahead of" if off_s > 0 else "behind"
    fix = "w32tm /resync" if os.name == "nt" else "sudo timedatectl set-ntp true"
    return [Check("note", "clock", f"{duration(abs(off_s))} {side} {host}", fix, round(off_s))]


def token() -> Check:
    """Return where the login of the hub comes from."""
    if os.environ.get("HF_TOKEN"):
        return Check("good", "hub token", "HF_TOKEN is set", value=True)
    if (hub_home() / "token").is_file():
        return Check("good", "hub token", "logged in", value=True)
    return Check(
        "note",
        "hub token",
        "none; only gated and private models need it",
        "run `hf auth login`, or set HF_TOKEN in .env",
        False,
    )
