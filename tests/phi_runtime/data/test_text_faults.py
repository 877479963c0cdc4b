"""Personal data, secrets and the traces of a wrong encoding: detected, without false positives."""

from __future__ import annotations

import random
import string

import pytest

from phi_runtime.data.text_faults import encoding_faults, personal_data

# Keys are put together here, so that no scanner takes this file for a leak.
MIXED = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0"


def mistaken(text: str, encoding: str) -> str:
    """UTF-8 that was read in `encoding`; where that has no character, the number of the byte, as browsers do."""
    return "".join(bytes([b]).decode(encoding, "ignore") or chr(b) for b in text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "We met on Tuesday and agreed on 3 points, 12 questions and 1,250,000 dollars.",
        "Grüße aus Köln: „Spaß“ für 5 €, déjà vu… 日本語",
        "100 000 000 people, 3.14159265358979, 6.02214076e23",
    ],
)
def test_a_clean_text_has_no_finding(text: str) -> None:
    assert personal_data(text) == encoding_faults(text) == {}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("write to jane.doe@example.com.", 1),
        ("<jane+news@mail.example.co.uk>, joe_1@x-y.org", 2),
        ("mailto:a@b.io", 1),
        ("jürgen@müller.de", 1),
        ("联系 me@example.cn。", 1),
    ],
)
def test_email_addresses_are_counted(text: str, count: int) -> None:
    assert personal_data(text) == {"email": count}


@pytest.mark.parametrize(
    "text",
    [
        "@jane_doe said",
        "see you @ 5.30",
        "jane@localhost",
        "left-pad@1.3.0",
        "git@github.com:owner/repository.git",
        "icon@2x.png",
        "@jane@mastodon.social",
        "@functools.wraps(f)",
        "a@b.T and x@w.transpose(0, 1)",
    ],
)
def test_other_uses_of_the_at_sign_are_no_email_address(text: str) -> None:
    assert personal_data(text) == {}


@pytest.mark.parametrize(
    "number",
    [
        "+1 415 555 0132",
        "+14155550132",
        "+1 (415) 555-0132",
        "+44 20 7946 0958",
        "+49 (0)30 1234567",
        "+49 30/123456-78",
        "+33 6 12 34 56 78",
        "+86 138 1234 5678",
        "+91-98765-43210",
        "+358\u00a040\u00a01234567",
        "0049 30 1234567",
        "(415) 555-0132",
        "(415)555-0132",
        "415-555-0132",
        "415.555.0132",
        "415 555 0132",
        "1-800-555-0199",
        "020 7946 0958",
        "(020) 7946 0958",
        "030/1234567",
        "0171 234 56 78",
        "06 12 34 56 78",
        "06.12.34.56.78",
        "090-1234-5678",
        "02-2134-5678",
        "0800 123456",
        "138-1234-5678",
        "98765 43210",
        "(11) 91234-5678",
        "8 (495) 123-45-67",
        "612 34 56 78",
        "512-345-678",
    ],
)
def test_telephone_numbers_are_counted(number: str) -> None:
    for text in (number, f"Call {number}, please.", f"Tel.:{number}\nFax: none", f"电话{number}请"):
        assert personal_data(text) == {"phone": 1}, text


def test_each_telephone_number_counts() -> None:
    assert personal_data("(415) 555-0132 or 415-555-0133, +44 20 7946 0958; +33612345678") == {"phone": 4}


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-15",
        "2024-01-15 10:30:00",
        "2024-01-15T10:30:00+01:00",
        "2024-01-15T10:30:00.123456Z",
        "2024-01-15 2024-02-15",
        "15.01.2024 - 17.02.2024",
        "01/02/2024 0930",
        "01.02.24 03.04.24",
        "05/2023 - 06/2024",
        "08.00-12.00 13.00-17.00",
        "1914-1918, 1939-1945",
        "1999 2000 2001 2002",
        "20240115-103000",
        "$1,250,000,000.00",
        "1 250 000 000",
        "912 345 678 EUR",
        "$415 555 0132",
        "0.123456789",
        "+52.5200066 +13.4049540",
        "4.359 744 722 2071 e-18",
        "version 1.2.3.4567.8901",
        "1234567890123",
        "4155550132",
        "0123456789012",
        "01 02 03 04 05",
        "10 20 30 40 50 60",
        "6 12 24 48 96 192 384 768 1536 3072",
        "1234 0567 8901 2345",
        "978-3-16-148410-0",
        "0-306-40615-2",
        "123-45-6789",
        "Boston, MA 02110-1301",
        "550e8400-e29b-41d4-a716-446655440000",
        "AB-415-555-0132",
        "/0123-4567-8901/",
        "Smith (2019) 1234-1250",
        "12 (34) 1234-1250",
        "555-0132",
        "12:30:45 11:22:33",
    ],
)
def test_other_numbers_are_no_telephone_number(text: str) -> None:
    assert personal_data(text) == {}
    assert personal_data(f"Of {text}, no more.") == {}


@pytest.mark.parametrize(
    "key",
    [
        "sk-" + MIXED,
        "sk-" + "0123456789abcdef" * 2,
        "sk-proj-" + MIXED[:20] + "_" + MIXED[:20],
        "sk-ant-" + "api03-" + MIXED[:15] + "-" + MIXED[:15] + "_" + MIXED[:10],
        "sk-or-" + "v1-" + "0123456789abcdef" * 4,
        "hf_" + string.ascii_letters[:34],
        "ghp_" + MIXED[:36],
        "gho_" + MIXED[:36],
        "github_pat_" + MIXED[:22] + "_" + MIXED,
        "AKIA" + "ABCDEFGHIJ234567",
        "xoxb-" + "123456789012-" + MIXED[:20],
        "xoxp-" + "123456789012-" + MIXED[:20],
        "AIza" + MIXED[:30] + "_-abc",
        "-----BEGIN " + "PRIVATE KEY-----",
        "-----BEGIN " + "RSA PRIVATE KEY-----",
        "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0." + MIXED[:20],
    ],
)
def test_well_known_keys_are_counted(key: str) -> None:
    for text in (key, f"export KEY={key}", f'"key": "{key}", and "{key}"'):
        assert personal_data(text) == {"api_key": text.count(key)}, text


@pytest.mark.parametrize(
    "text",
    [
        "a risk-averse, task-based and disk-like thing from sk-learn",
        "sk-your-api-key-goes-right-here",
        "sk-" + "x" * 40,
        "task-" + MIXED,
        "hf_" + "x" * 34,
        "hf_model_name_or_path_of_the_tokenizer",
        "ghp_short",
        "laughs and ghosts, high_school",
        "AKIA is short",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "eyJ.a.b",
        "xoxo-hugs-and-kisses",
    ],
)
def test_words_and_placeholders_are_no_key(text: str) -> None:
    assert personal_data(text) == {}


@pytest.mark.parametrize(
    "number",
    [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111111111111111",
        "5555555555554444",
        "2223003122003222",
        "3782 822463 10005",
        "378282246310005",
        "6011111111111117",
        "3056 930902 5904",
        "3530111333300000",
        "6200000000000005",
        "4222222222222",
    ],
)
def test_credit_cards_are_counted(number: str) -> None:
    assert personal_data(f"Card {number}, 12/26") == {"credit_card": 1}
    assert personal_data(f"Card {number} 123") == {"credit_card": 1}


@pytest.mark.parametrize(
    "number",
    [
        "4111 1111 1111 1112",  # fails Luhn
        "1111111111111117",  # Luhn, of no issuer
        "411111111111116",  # Luhn, 15 digits
        "0.4111111111111111",
        "x4111111111111111",
        "4111 1111 1111 1111 4111",
    ],
)
def test_other_long_numbers_are_no_credit_card(number: str) -> None:
    assert personal_data(f"Number {number}.") == {}


@pytest.mark.parametrize(
    "iban",
    [
        "DE89 3704 0044 0532 0130 00",
        "DE89370400440532013000",
        "GB82 WEST 1234 5698 7654 32",
        "FR14 2004 1010 0505 0001 3M02 606",
        "NO93 8601 1117 947",
        "MT84MALT011000012345MTLCAST001S",
        "NL91 ABNA 0417 1643 00",
        "CH93-0076-2011-6238-5295-7",
    ],
)
def test_ibans_are_counted(iban: str) -> None:
    assert personal_data(f"Pay to {iban}.") == {"iban": 1}
    assert personal_data(f"PAY TO {iban} AND {iban} BY 2024") == {"iban": 2}


@pytest.mark.parametrize(
    "text",
    [
        "DE88 3704 0044 0532 0130 00",  # not 1 modulo 97
        "XX89 3704 0044 0532 0130 00",
        "DE89 3704 0044 0532 0130",
        "DE89370400440532013000X",
        "ISO 13616 AB12",
    ],
)
def test_a_wrong_check_sum_country_or_length_is_no_iban(text: str) -> None:
    assert "iban" not in personal_data(text)


@pytest.mark.parametrize("text", ["from 203.0.113.7 at", "http://91.224.149.41:8080/x", "host=94.245.121.253"])
def test_ip_addresses_are_counted(text: str) -> None:
    assert personal_data(text) == {"ip_address": 1}


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0 and 127.0.0.1",
        "192.168.1.10, 10.12.13.14, 172.16.20.30, 169.254.10.20",
        "255.255.255.0, 224.0.0.251",
        "91.224.149.0/24",
        "1.2.3.4",
        "section 12.1.2.4",
        "v91.22.33.44",
        "version 91.22.33.44",
        "upgraded V8 to 13.15.11.5",
        "pip install x==21.12.13.14",
        "Chrome/120.0.6099.109 Edg/120.10.20.30",
        "91.22.33.44.55",
        "91.22.33.256",
        "08.15.16.23",
    ],
)
def test_versions_and_addresses_of_nobody_are_no_ip_address(text: str) -> None:
    assert personal_data(text) == {}


def test_a_text_tells_all_kinds_at_once_and_each_finding_under_one_of_them() -> None:
    text = (
        "jane@example.com, +1 415 555 0132, card 4111 1111 1111 1111, DE89 3704 0044 0532 0130 00, "
        f"203.0.113.77, {'hf_' + string.ascii_letters[:34]}"
    )
    kinds = ("email", "phone", "credit_card", "iban", "ip_address", "api_key")
    assert personal_data(text) == dict.fromkeys(kinds, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("caf\ufffd", {"replacement_character": 1}),
        ("cafÃ©", {"mojibake": 1}),
        ("itâ€™s", {"mojibake": 1}),
        ("5Â\u00a0km, 20Â°", {"mojibake": 2}),
        ("donâ\x80\x99t", {"mojibake": 1}),  # read as Latin-1: its C1 characters are no second fault
        ("ï»¿text", {"mojibake": 1}),
        ("ï¿½", {"mojibake": 1}),
        ("CafÃƒÂ©", {"mojibake": 2}),  # twice
        ("a\x00b\x1b[0m\x7f", {"control_character": 3}),
        ("é\x00\x85", {"control_character": 2}),
        ("\ufefftext", {"byte_order_mark": 1}),
        ("half \ud83d an emoji", {"lone_surrogate": 1}),
        (
            "\ufeffÃ¼\ufffd\x9d",
            {"mojibake": 1, "control_character": 1, "replacement_character": 1, "byte_order_mark": 1},
        ),
    ],
)
def test_encoding_faults_are_counted_by_kind(text: str, expected: dict[str, int]) -> None:
    assert encoding_faults(text) == expected


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize(
    "text",
    [
        "à côté, « l’œuvre » coûte 5 €…",
        "„Größe“ – Übermut",
        "Zażółć gęślą jaźń",
        "Příliš žluťoučký kůň",
        "Tiếng Việt rất đẹp",
        "Привет, мир",
        "Καλημέρα, λ",
        "שלום עולם",
        "مرحبا بالعالم",
        "नमस्ते दुनिया",
        "你好，世界",
        "日本語のテキスト",
        "안녕하세요",
        "😀 → ★",
    ],
)
def test_every_character_of_a_misread_text_is_told_and_none_of_the_right_one(text: str, encoding: str) -> None:
    assert encoding_faults(text) == {}
    assert encoding_faults(mistaken(text, encoding)) == {"mojibake": sum(not c.isascii() for c in text)}


@pytest.mark.parametrize(
    "text",
    [
        "line\r\n\ttabbed",
        "„Spaß“ im „MENÜ“",
        "la «santé…»",
        "É\u00a0: à\u00a0«\u00a0oui\u00a0»",
        "ÃO, NÃO, Âme, ÂGE, â, ÅR",
        "»úpěl« víš… dobrá«",
        "naïve café, 20 °C, ½ £ © ®",
        "cafÃ, cafÃ and e",
        "family 👨‍👩‍👧 emoji",
    ],
)
def test_letters_and_signs_of_their_languages_are_no_fault(text: str) -> None:
    assert encoding_faults(text) == {}


def test_any_text_at_all_can_be_searched() -> None:
    chance = random.Random(0)
    alphabet = [*string.printable, *"Ãâ€™Â ðŸ˜é\ufffd\ud800\x85", "+", "0", "(", "@", "DE89", "sk-", "192.168."]
    for _ in range(2000):
        text = "".join(chance.choices(alphabet, k=60))
        for found in (personal_data(text), encoding_faults(text)):
            assert all(found.values())
