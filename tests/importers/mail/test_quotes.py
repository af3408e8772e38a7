# ruff: noqa: RUF001
"""Quotations and signatures: what of a text is the sender's own."""

import pytest

from tests.importers.mail.messages import BOB, text
from tests.importers.mail_quotations import QUOTATIONS

OPENINGS = [
    f"On Mon, May 6, 2024 at 10:00 AM {BOB} wrote:",
    "On Mon, May 6, 2024 at 10:00 AM Bob Augustus Builder <\nbob@example.com> wrote:",
    f"On Mon, 6 May 2024 10:00:00 +0200\n{BOB}\nwrote:",
    "On 5/6/24 10:00 AM, Bob Builder wrote:",
    "On Mon, 6 May 2024, Bob Builder wrote:",
    "Bob Builder wrote:",
    "Bob Builder <bob@example.com> writes:",
    "2013/5/6 Bob Builder <bob@example.com>",
    "* Bob Builder <bob@example.com> [2024-05-06 10:00]:",
    f"Am Mo., 6. Mai 2024 um 10:00 Uhr schrieb {BOB}:",
    "Am 06.05.24 um 10:00 schrieb Bob Builder:",
    f"Le lun. 6 mai 2024 à 10:00, {BOB} a écrit\u00a0:",
    "El lun, 6 may 2024 a las 10:00, Bob Builder (<bob@example.com>) escribió:",
    f"Il giorno lun 6 mag 2024 alle ore 10:00 {BOB} ha\nscritto:",
    f"Em seg., 6 de mai. de 2024 às 10:00, {BOB} escreveu:",
    f"Op ma 6 mei 2024 om 10:00 schreef {BOB}:",
    f"Den mån 6 maj 2024 kl 10:00 skrev {BOB}:",
    f"man. 6. mai 2024 kl. 10:00 skrev {BOB}:",
    f"ma 6. toukok. 2024 klo 10.00 {BOB} kirjoitti:",
    f"pon., 6 maj 2024 o 10:00 {BOB} napisał(a):",
    "W dniu 6.05.2024 o 10:00, Bob Builder pisze:",
    f"po 6. 5. 2024 v 10:00 odesílatel {BOB} napsal:",
    f"пн, 6 мая 2024 г. в 10:00, {BOB}:",
    f"{BOB}, 6 May 2024 Pzt, 10:00 tarihinde şunu yazdı:",
    f"{BOB} 于2024年5月6日周一 10:00写道：",
    f"{BOB} 在 2024年5月6日 周一 10:00 写道：",
    f"2024/05/06 10:00、{BOB}のメッセージ:",
    f"2024. máj. 6., h 10:00 időpontban {BOB} ezt írta:",
    f"Mon, 6 May 2024 10:00:51 +0400 от {BOB}:",
    f"In data 6 maggio 2024 10:00:00 {BOB} ha scritto:",
    f"2024年5月6日(月) 10:00 {BOB}:",
    f"2024년 5월 6일 (월) 오전 10:00, {BOB}님이 작성:",
]


@pytest.mark.parametrize("opening", OPENINGS)
def test_what_is_quoted_goes_with_the_line_before_it(opening: str) -> None:
    quote = f"{opening}\n\n> Rain?\n>> Sun?\n>\n> {BOB} wrote:\n"
    assert text(f"Yes.\n\n{quote}") == "Yes."
    assert text(f"{quote}\nYes.") == "Yes."
    assert text(f"Thanks!\n{opening}\n> Rain?\nYes.\n\n> Sun?\n\nNo.") == "Thanks!\nYes.\n\nNo."


@pytest.mark.parametrize("opening", [opening for opening in OPENINGS if "10:00" in opening and "[" not in opening])
def test_some_programs_mark_no_quotation(opening: str) -> None:
    assert text(f"Yes.\n\n{opening}\n\nRain?\nSun?\n") == "Yes."


@pytest.mark.parametrize(
    "block",
    [
        "-----Original Message-----\nFrom: Bob\nSent: Monday\nTo: Ada\nSubject: Rain\n\nRain?",
        "-------- Original Message --------\nRain?",
        "-----Ursprüngliche Nachricht-----\nVon: Bob\nGesendet: Montag\nRegen?",
        "----- Message d'origine -----\nDe : Bob\nPluie ?",
        "---------- Forwarded message ---------\nFrom: Bob <bob@example.com>\nRain?",
        "-------- Oprindelig besked --------\nRegn?",
        "---- On Wed, 24 Feb 2021 14:02:50 +0530 bob@example.com wrote ----\n\nRain?",
        "---------- Weitergeleitete Nachricht ----------\nRegen?",
        "Begin forwarded message:\n\nFrom: Bob\nSubject: Rain\n\nRain?",
        "Anfang der weitergeleiteten Nachricht:\n\n> Von: Bob\n\nRegen?",
        "From: Bob <bob@example.com>\nSent: Monday, May 6, 2024 10:00\nTo: Ada\nSubject: Rain\n\nRain?",
        "________________________________\nFrom: Bob <bob@example.com>\nSent: Monday\nTo: Ada\nSubject: Rain\n\nRain?",
        "*From:* Bob\n*Sent:* Monday\n*To:* Ada\n*Subject:* Rain\n\nRain?",
        "Von: Bob\nGesendet: Montag, 6. Mai 2024\nAn: Ada\nBetreff: Regen\n\nRegen?",
        "De : Bob\nEnvoyé : lundi\nÀ : Ada\nObjet : Pluie\n\nPluie ?",
        "De: Bob\nEnviado el: lunes\nPara: Ada\nAsunto: Lluvia\n\n¿Lluvia?",
        "Da: Bob\nInviato: lunedì\nA: Ada\nOggetto: Pioggia\n\nPioggia?",
        "Van: Bob\nVerzonden: maandag\nAan: Ada\nOnderwerp: Regen\n\nRegen?",
        "发件人: Bob\n发送时间: 2024年5月6日\n收件人: Ada\n主题: 雨\n\n雨？",
        "差出人: Bob\n送信日時: 2024年5月6日\n宛先: Ada\n件名: 雨\n\n雨？",
    ],
)
def test_what_is_quoted_whole_ends_the_text(block: str) -> None:
    assert text(f"Yes.\n\n{block}\n") == "Yes."
    assert text(f"{block}\n") == ""


@pytest.mark.parametrize(
    "own",
    [
        "Please bring:\n- milk\n- bread\n\nSee you at noon.\nAda",
        "Take a look at the plan.\nTak\nDo: the dishes\nBest regards,\nAda",
        "From: Berlin\nTo: Hamburg\nDate: 6 May\n\nShall we go?",
        "Here is what Bob wrote:\nRain is good.\nI agree.",
        "On page 3 she wrote:\nRain is good.\nI agree.",
        "On the whole it is as Bob (bob@example.com) wrote:\nRain is good.\nI agree.",
        "On 6 May we meet at 10:00 with the following people:\nBob\nCarol",
        "At 10:30 I wrote to the office with the question that you had asked me:\nwhat now?\nNo answer.",
        "Ask him: bob@example.com",
        "Write to <bob@example.com>:\nhe knows.",
        "5 > 4\nx->y",
        "--- Agenda ---\nRain\n-- rain, again\n--no-rain",
        "Subject: matters\nFrom: what I hear, it rains",
        "Sent the letter.\nVon mir gesendet, gestern.",
        "Title\n=====\nText",
        "/usr/bin/env: no such file\n/Ada",
    ],
)
def test_what_people_write_stays(own: str) -> None:
    assert text(own) == own


def test_a_paragraph_before_a_quotation_stays() -> None:
    own = "It rains, and rains, and rains. " * 20 + "Did Bob not ask, when he wrote:"
    assert text(f"{own}\n> Rain?") == own


@pytest.mark.parametrize(
    "end",
    [
        "-- \nAda Lovelace\nAnalyst",
        "--\nAda",
        "\n-- \nAda\n\nOn Monday, 6 May 2024, Bob wrote:\n> Rain?",
        "Sent from my iPhone",
        "Sent from my Galaxy S24 Ultra\n\n> On 6 May 2024, at 10:00, Bob wrote:\n> \n> Rain?",
        "Get Outlook for iOS<https://aka.ms/o0ukef>\n________________________________\nFrom: Bob\nSent: Monday\n",
        "Von meinem iPhone gesendet",
        "Gesendet von Mail für Windows",
        "Envoyé de mon iPad",
        "Enviado desde mi iPhone",
        "Verzonden vanaf mijn iPhone",
        "Отправлено с iPhone",
        "iPhoneから送信",
        "发自我的 iPhone",
        "——————————————————————————————\n\nAda",
        "_______________________________________________\nlist mailing list\nlist@example.org",
        "****",
    ],
)
def test_signatures_go(end: str) -> None:
    assert text(f"It rains.\n\nBest,\nAda\n\n{end}\n") == "It rains.\n\nBest,\nAda"


def test_pgp_armour_goes() -> None:
    signed = (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nYes.\n- - a list\n- -----BEGIN it-----\n"
        "-----BEGIN PGP SIGNATURE-----\nVersion: x\n\niQ==\n-----END PGP SIGNATURE-----\n"
    )
    assert text(signed) == "Yes.\n- a list\n-----BEGIN it-----"
    assert text("Hi\n-----BEGIN PGP MESSAGE-----\n\nhQE\n-----END PGP MESSAGE-----\nBye") == "Hi\n\nBye"
    assert text("-----BEGIN PGP MESSAGE-----\n\nhQE") == ""
    assert text("- not signed\n- a list") == "- not signed\n- a list"


def test_pictures_leave_no_mark() -> None:
    assert text("See [image: boat.png] here [cid:image001.png@01D] [1]") == "See here [1]"


@pytest.mark.parametrize(("given", "own"), [each[1:] for each in QUOTATIONS], ids=[each[0] for each in QUOTATIONS])
def test_only_the_senders_own_words_stay(given: str, own: str) -> None:
    assert text(given) == own
