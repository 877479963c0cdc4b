"""Detect personal data, secrets, and traces of a wrong encoding in training text.

Matches are by form alone, so a count is a hint to check, not a proof. Most texts are clean, so a cheap test guards each
expensive search.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Counts = dict[str, int]
Match = re.Match[str]

_EMAIL = re.compile(
    r"(?<![\w.%+@-])(?!git@)[\w.%+-]{1,64}+@(?![23]x\.)"  # git@host:path is no person, icon@2x.png is a file
    r"(?:[^\W_][\w-]*+\.)+[^\W\d_]{2,24}(?![\w@(-])"
)

# A character of a key that few texts have, which is found ten times as fast as a marker; the marker of the key, with which its
# form starts, which makes `re` fast; and the form.
_API_KEYS = tuple(
    (character, marker, re.compile(marker + form, re.ASCII))
    for character, marker, form in (
        (
            "-",
            "sk-",
            r"(?<!\wsk-)(?<!-sk-)(?:(?:ant|proj|svcacct|admin|or)-(?=[\w-]*\d)[\w-]{20,}|(?=[a-zA-Z]*\d)[a-zA-Z0-9]{20,})",
        ),
        ("_", "hf_", r"(?<!\whf_)[a-zA-Z0-9]{30,}"),
        ("_", "gh", r"(?<!\wgh)[pousr]_[a-zA-Z0-9]{36,}"),
        ("_", "github_pat_", r"(?<!\wgithub_pat_)\w{22,}"),
        ("K", "AKIA", r"(?<!\wAKIA)[A-Z0-9]{16}(?!\w)"),
        ("-", "xox", r"(?<!\wxox)[abeprs]-(?=[a-zA-Z-]{0,40}\d)[a-zA-Z0-9-]{10,}"),
        ("z", "AIza", r"(?<!\wAIza)[\w-]{35}(?!\w)"),
        ("-", "-----BEGIN ", r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
        ("J", "eyJ", r"(?<!\weyJ)[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"),
    )
)
_LEAST_CHARACTERS_OF_A_KEY = 10  # distinct ones; hf_xxxxxxxx is a placeholder

# IBANs by length: the IBAN registry of SWIFT (ISO 13616)
_IBAN_COUNTRIES = {
    15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC",
    32: "LC", 33: "RU",
}  # fmt: skip
_IBAN = re.compile(
    r"(?<!\w)(?=[A-Z]{2}\d\d)(?:"
    + "|".join(
        rf"(?:{names.replace(' ', '|')})\d\d(?:[ -]?[A-Z0-9]){{{length - 4}}}"
        for length, names in _IBAN_COUNTRIES.items()
    )
    + r")(?!\w)",
    re.ASCII,
)

_CARD = re.compile(
    r"(?<![\w-])(?<!\d[ .])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?![ -]\d{4})|\d{4}([ -])\d{6}\2\d{4,5}|\d{13,19})(?!\w|\.\d)",
    re.ASCII,
)
# Visa, Mastercard, American Express, Diners Club, JCB, Discover, UnionPay
_CARD_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|6(?:011|4[4-9]\d|5\d\d)\d{12}|62\d{14,17}"
)

_IP_ADDRESS = re.compile(
    r"\d(?<![\w.]\d)(?<!\w/\d)(?<![=<>~]=\d)\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?!\w|\.\d)", re.ASCII
)
_NO_PERSONS_ADDRESS = re.compile(
    r"(?:0|10|127|22[4-9]|2[3-5]\d)\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.|169\.254\.|.*\.0$"
)
_VERSION_COMES = re.compile(
    r"\b(?:versions?|ver|v|release|build|firmware|driver|oid|updated?|upgraded?)\b[.:]?(?:\s+\w{1,12})?(?:\s+to)?\s*$",
    re.IGNORECASE,
)

# One or two characters between the groups of a telephone number
_GAPS = r" .\-/\u00a0\u202f\u2010\u2011\u2013"
_GAP = f"[{_GAPS}]"
_LONG_NUMBER = re.compile(rf"[0-9][0-9(){_GAPS}]{{8,}}")
_PHONE = re.compile(
    rf"""
    # +49 (0)30 1234567
    (?<![\w+]) \+ \(?[1-9] (?: (?: [ ]?\( | \){_GAP}? | [ ][-/\u2013][ ] | {_GAP} )? \d ){{8,14}} (?!\d)
    | (?<![\w/$€£#-]) (?<!\d[.,:]) (?:
        # (415) 555-0132, 415-555-0132, 415.555.0132
        (?:1[ .-])? (?: \([2-9]\d\d\)[ .-]?[2-9]\d\d[ .-] | [2-9]\d\d-[2-9]\d\d- | [2-9]\d\d\.[2-9]\d\d\. ) \d{{4}}
        # 512-345-678
        | [5-79]\d\d-\d{{3}}-\d{{3}}
        # With blanks, as a part of no longer row of numbers
        | (?<!\d[ ]) (?:
            # 030 1234567
            \(?0{{1,2}}[1-9]\d{{0,4}}\)? (?: {_GAP}{{0,3}} (?<!\d) \d{{2,8}} ){{1,5}}
            # 415 555 0132
            | (?:1[ ])? [2-9]\d\d[ ][2-9]\d\d[ -]\d{{4}}
            # (11) 91234-5678
            | (?:[78][ -]?)? \((?!19|20)\d{{2,5}}\)[ ]? (?: \d{{3,5}}[ -]\d{{2,5}} (?:[ -]\d{{2,4}})? | \d{{7,8}} )
            # 138 1234 5678, 98765 43210, 612 34 56 78
            | 1[3-9]\d([ -])\d{{4}}\1\d{{4}} | [6-9]\d{{4}}[ -]\d{{5}} | [5-9]\d\d(?:[ ]\d\d){{3}}
        ) (?![ ]\d)
    ) (?!\w) (?![.,:/-]\d)
    """,
    re.VERBOSE | re.ASCII,
)
_DECIMAL = re.compile(r"\+?\d+\.\d+")
_NO_PHONE = re.compile(
    r"""(?<!\d)(?:
        (?:19|20)\d\d[./-]\d\d?[./-]\d\d?                # 2024-01-15
        | (?:\d\d?[./-])?\d\d?[./-](?:19|20)\d\d         # 15.01.2024, 01/2024
        | (?<!\d[./-])\d\d?([./-])\d\d?\1\d\d(?![./-]\d)  # 15.01.24
        | \d\d\.\d\d[ ]?[-–/][ ]?\d\d\.\d\d              # 08.00-12.00
    )(?!\d)
    | ^0\d{4}-\d{4}$                                    # 02110-1301, a ZIP code""",
    re.VERBOSE,
)

_DIGITS = b"0123456789"
_C0 = bytes({*range(0x20), 0x7F} - set(b"\t\n\r"))
_C1 = re.compile(r"[\x80-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SUSPECT = re.compile("[Â-ô][^\x00-\x7f]|[\x80-\x9f\ud800-\udfff\ufeff\ufffd]")

# The Windows-1252 byte of each character from 0x80 up; for Latin-1, and where it has none, the code point.
_BYTES = {chr(n): n for n in range(0x80, 0x100)}
_BYTES |= {c: n for n in range(0x80, 0xA0) if (c := bytes([n]).decode("cp1252", "ignore"))}
_TAIL = "[" + "".join(c for c, n in _BYTES.items() if n < 0xC0) + "]"
_MOJIBAKE = re.compile(f"(?:[Â-ß]{_TAIL}|[à-ï]{_TAIL}{{2}}|[ð-ô]{_TAIL}{{3}})+")
# Characters of a sequence that counts when it occurs alone: accented and Greek letters, Vietnamese, punctuation and signs,
# full-width forms, and emoji. Others come in words; a single one is more often „Spaß“ or «santé…».
_BELIEVED_ALONE = re.compile("[\u0080-\u017f\u0380-\u03ff\u1e80-\u1eff\u2000-\u2fff\uf000-\uffff\U00010000-\U0010ffff]")


def personal_data(text: str) -> Counts:
    """Count likely email addresses, telephone numbers, API keys, credit cards, IBANs and IP addresses, by kind.

    Telephone numbers have 9 to 15 digits (E.164: 15), with a separator or a leading +. Kinds that do not occur are absent.
    """
    found: Counts = {}
    if "@" in text and (emails := len(_EMAIL.findall(text))):
        found["email"] = emails
    keys = 0
    for character, marker, form in _API_KEYS:
        if character in text and marker in text:
            keys += sum(len(set(key[0])) >= _LEAST_CHARACTERS_OF_A_KEY for key in form.finditer(text))
    if keys:
        found["api_key"] = keys
    if (digits := _count_of(_DIGITS, text)) >= 6:
        found |= _numbers(text, digits)
    return found


def without_api_keys(text: str, replacement: str) -> str:
    """Replace the API keys that `personal_data` counts."""
    for character, marker, form in _API_KEYS:
        if character in text and marker in text:
            text = form.sub(replacement, text)
    return text


def encoding_faults(text: str) -> Counts:
    """Count characters that a wrong encoding produces, by kind.

    `mojibake` is UTF-8 that was read as Windows-1252 or Latin-1: a sequence whose bytes decode as UTF-8. Its C1 characters
    count only as that. Tab, line feed and carriage return do not count. Kinds that do not occur are absent.
    """
    control = _count_of(_C0, text)
    if text.isascii():
        return {"control_character": control} if control else {}
    counts = {"control_character": control}
    if _SUSPECT.search(text):
        rest, mojibake = _without(_MOJIBAKE, _mistaken, text)
        counts["control_character"] += len(_C1.findall(rest))
        counts |= {
            "mojibake": mojibake,
            "replacement_character": text.count("\ufffd"),
            "byte_order_mark": text.count("\ufeff"),
            "lone_surrogate": len(_SURROGATE.findall(text)),
        }
    return _nonzero(counts)


def _numbers(text: str, digits: int) -> Counts:
    """Count the kinds made of digits. Matches of one are removed, so that the next does not match a part of them."""
    counts: Counts = {}
    if digits >= 9 and any(_count_of(_DIGITS, run) >= 9 for run in _LONG_NUMBER.findall(text)):
        for kind, form, holds in _OF_LONG_NUMBERS:
            text, counts[kind] = _without(form, holds, text)
    if text.count(".") >= 3:
        counts["ip_address"] = sum(map(_is_ip_address, _IP_ADDRESS.finditer(text)))
    return _nonzero(counts)


def _count_of(characters: bytes, text: str) -> int:
    """Count these ASCII characters in a text, four times as fast as a regular expression."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(raw) - len(raw.translate(None, characters))


def _nonzero(counts: Counts) -> Counts:
    return {kind: count for kind, count in counts.items() if count}


def _without(form: re.Pattern[str], count: Callable[[Match], int], text: str) -> tuple[str, int]:
    """Replace each match that counts with a bar; return the text and the sum of the counts."""
    total = 0

    def bar(match: Match) -> str:
        nonlocal total
        counted = count(match)
        total += counted
        return "|" if counted else match[0]

    return form.sub(bar, text), total


def _is_iban(match: Match) -> bool:
    """Check an IBAN by ISO 13616: as a number (A = 10 … Z = 35, first four characters last) it is 1 modulo 97."""
    iban = re.sub("[ -]", "", match[0])
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def _is_card(match: Match) -> bool:
    """Check a card number: the prefix of an issuer, and the Luhn formula (ISO/IEC 7812-1, annex B)."""
    number = re.sub("[ -]", "", match[0])
    doubled = (sum(divmod(2 * int(d), 10)) for d in number[-2::-2])
    return bool(_CARD_ISSUER.fullmatch(number)) and (sum(doubled) + sum(map(int, number[-1::-2]))) % 10 == 0


def _is_ip_address(match: Match) -> bool:
    """Return True for an address that may belong to a person: not local, private, a network, a version or a section."""
    parts = match[0].split(".")
    return (
        all(int(p) < 256 and (p == "0" or p[0] != "0") for p in parts)
        and sum(len(p) > 1 for p in parts) >= 2
        and not _NO_PERSONS_ADDRESS.match(match[0])
        and not _VERSION_COMES.search(match.string[max(match.start() - 32, 0) : match.start()])
    )


def _is_phone(match: Match) -> bool:
    number = match[0]
    groups = re.findall(r"[0-9]+", number)
    if not 9 <= sum(map(len, groups)) <= 15 or _DECIMAL.fullmatch(number):
        return False
    if number[0] == "+":
        return True
    counted_up = all(g[0] == "0" for g in groups)  # 01 02 03 04 05
    return len(groups) > 1 and not counted_up and not _NO_PHONE.search(number)


def _mistaken(match: Match) -> int:
    characters = bytes(_BYTES[c] for c in match[0]).decode("utf-8", "ignore")
    return len(characters) if len(characters) > 1 else len(_BELIEVED_ALONE.findall(characters))


_OF_LONG_NUMBERS: tuple[tuple[str, re.Pattern[str], Callable[[Match], bool]], ...] = (
    ("iban", _IBAN, _is_iban),
    ("credit_card", _CARD, _is_card),
    ("phone", _PHONE, _is_phone),
)
