# ruff: noqa: RUF001
"""Which messages are left out, and whose mail it is."""

from email.header import Header
from email.message import EmailMessage
from pathlib import Path

import pytest

from ownlm.importers.imported import pseudonym
from tests.history.files import SECRET
from tests.importers.mailbox_files import BOB, ME, message
from tests.importers.mbox_runs import Given, box, left_out, mailbox, raw, refused, run, taken

# What is left out


REPLIES = [
    "Re: Rain", "RE: Rain", "re:Rain", "Re : Rain", "Re[2]: Rain", "Re(3): Rain", "Re^2: Rain", "Re： Rain",
    "Fwd: Rain", "FW: Rain", "RE: FW: Rain", "Re: Re: Fwd: Rain", "[Fwd: Rain]", "Rain (fwd)",
    "Fwd: [Fwd: Rain]", "AW: Rain", "WG: Rain", "AW: WG: Rain", "Antwort: Rain", "SV: Rain", "VS: Rain",
    "VB: Rain", "Antw: Rain", "RV: Rain", "TR: Rain", "Odp: Rain", "RIF: Rain", "ENC: Rain", "回复: Rain",
    "转发：Rain", "答复: Rain", "Отв: Rain",
]  # fmt: skip


@pytest.mark.parametrize("subject", REPLIES)
def test_replies_and_forwards_only_where_they_are_asked_for(tmp_path: Path, subject: str) -> None:
    body = f"Yes.\n\nOn Monday, Bob <{BOB}> wrote:\n> Rain?\n"
    assert left_out(tmp_path, message(subject, body)) == {"replies and forwards": 1}
    assert [(row["subject"], row["text"]) for row in taken(tmp_path, message(subject, body), replies=True)][-1] == (
        "Rain",
        "Yes.",
    )


IN_THREAD = [
    "R: Rain", "I: Rain", "Xx: Rain", "Ref: Rain", "Hiv: Rain", "Ynt : Rain", "Atsak: Rain", "Rép.: Rain",
    "Xx[2]: Rain", "Xx：Rain", "Одг: Rain", "Πρ: Rain", "Հղ: Rain", "მიმ: Rain", "उत्तर: Rain", "উত্তর: Rain",
    "பதில்: Rain", "ตอบ: Rain", "Xx: Re: Rain", "Xx(3): Rain", "Xx2: Rain", "ပြန်: Rain", "פר: Rain",
    "返: Rain",
]  # fmt: skip
LISTED = [
    "Re*2: Rain", "Re2: Rain", "RE﹕ Rain", "Ｒｅ： Rain", "ＦＷＤ：Rain", "RÉF: Rain", "Vá: Rain", "ODG: Rain",
    "ATS: Rain", "İLT: Rain", "YNT: Rain", "Yanıt: Rain", "ΣΧΕΤ: Rain", "Απ: Rain", "Відп: Rain", "ОТГ: Rain",
    "BLS: Rain", "TRS: Rain", "回覆：Rain", "轉寄: Rain", "返信：Rain", "転送: Rain", "답장: Rain", "رد: Rain",
    "إعادة توجيه: Rain", "תגובה: Rain", "הועבר: Rain", "ส่งต่อ: Rain", "[list] [x] Re: Rain", "【list】Re: Rain",
    "Re: AW: Rain", "SV: VS: Rain", "FWD: Enc: Rain",
]  # fmt: skip


@pytest.mark.parametrize("subject", IN_THREAD + LISTED)
def test_prefixes_of_every_language(tmp_path: Path, subject: str) -> None:
    thread = {} if subject in LISTED else {"In_Reply_To": "<1@x>"}
    assert left_out(tmp_path, message(subject, "Yes.", **thread)) == {"replies and forwards": 1}
    (row,) = taken(tmp_path, message(subject, "Yes.", **thread), replies=True)
    assert row["subject"].removeprefix("[list] [x] ").removeprefix("【list】") == "Rain"
    if subject in IN_THREAD and "Re" not in subject and "ตอบ" not in subject and "Одг" not in subject:
        plain = [{}, {"Thread_Topic": subject}]
        kept = [
            taken(tmp_path, message(subject, "Yes.", **head))[0]["subject"] for head in plain if "Ynt" not in subject
        ]
        assert all(each == subject for each in kept)


def test_other_signs_of_a_thread(tmp_path: Path) -> None:
    signs = ({"References": "<1@x>"}, {"Thread_Topic": "Rain"}, {"X_Forwarded_Message_Id": "<1@x>"})
    for sign in signs:
        assert left_out(tmp_path, message("Xx: Rain", "Yes.", **sign)) == {"replies and forwards": 1}
    rows = taken(tmp_path, message("Re: Note: rain", "Yes.", References="<1@x>"), replies=True)
    assert rows[0]["subject"] == "Note: rain"  # what stands after a known prefix is the subject


def test_more_about_replies(tmp_path: Path) -> None:
    assert left_out(tmp_path, message("R: Rain", "Sì.", In_Reply_To="<1@x>")) == {"replies and forwards": 1}
    assert left_out(tmp_path, message("[list] Re: [list] Rain", "Yes.")) == {"replies and forwards": 1}
    rows = taken(tmp_path, message("[list] Re: Rain", "Yes."), message("New", "No.", References="<1@x>"), replies=True)
    assert {row["subject"] for row in rows} >= {"[list] Rain", "New"}
    quoting = message("Re: Rain", "> Rain?\n", number=7)
    empty = message("Re:", "Yes.", number=8)
    assert left_out(tmp_path, quoting, empty, replies=True) == {
        "without text of their own": 1,
        "without a subject": 1,
    }


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        *(
            ("not sent by you", message("S", "Rain", From=sender))
            for sender in (BOB, f"{ME} <{BOB}>", "ada+x@example.org")
        ),
        ("not sent by you", message("S", "Rain", From=None)),
        ("not sent by you", message("S", "Rain", From="")),
        *(("drafts", message("S", "Rain", X_Gmail_Labels=label)) for label in ("Drafts", "Opened,Draft", "Entwürfe")),
        *(("drafts", message("S", "Rain", Status="T", X_Status=flag)) for flag in ("", "F")),
        ("drafts", message("S", "Rain", Status="RO", X_Status="FT")),
        ("drafts", message("S", "Rain", X_Mozilla_Draft_Info="internal/draft; vcard=0")),
        ("drafts", message("S", "Rain", X_Unsent="1")),
        ("drafts", message("S", "Rain", X_Uniform_Type_Identifier="com.apple.mail-draft")),
        ("drafts", message("S", "Rain", X_Draft_Info="type=reply; uid=1")),
        ("drafts", message("S", "Rain", X_GM_Labels="Draft")),
        ("drafts", message("S", "Rain", Date=None, To=None)),
        ("deleted", message("S", "Rain", X_Mozilla_Status="0009")),
        ("deleted", message("S", "Rain", X_Status="AD")),
        *(("deleted", message("S", "Rain", X_Gmail_Labels=label)) for label in ("Sent,Trash", "Gesendet,Papierkorb")),
        ("not sent by you", message("I know what you did", "Pay", X_Gmail_Labels="Spam")),
        ("not sent by you", message("I know what you did", "Pay", X_Spam_Flag="YES")),
        *(("automatic", message("S", "Rain", Auto_Submitted=how)) for how in ("auto-replied", "Auto-Generated; x")),
        *(("automatic", message("S", "Rain", Precedence=how)) for how in ("bulk", "auto_reply", "Junk")),
        ("automatic", message("S", "Rain", X_Autoreply="yes")),
        ("automatic", message("Chat with Bob", "Rain", X_Gmail_Labels="Chat,Sent")),
        ("automatic", raw('Subject: S\nContent-Type: multipart/report; boundary="x"', "--x\n\nRead.")),
        ("automatic", raw("Subject: Accepted: S\nContent-Type: text/calendar; method=REPLY", "BEGIN:VCALENDAR")),
        (
            "automatic",
            raw(
                'Subject: Accepted: S\nContent-Type: multipart/alternative; boundary="x"',
                "--x\n\nI come.\n--x\nContent-Type: text/calendar; method=REPLY\n\nBEGIN:VCALENDAR\n--x--",
            ),
        ),
        ("without a subject", message(None, "Rain")),
        ("without a subject", message("  ", "Rain")),
        ("without a subject", message("(no subject)", "Rain")),
        ("without a subject", raw("Subject: =?utf-8?B?A?= cannot be decoded")),
        ("without text of their own", message("S", "")),
        ("without text of their own", message("S", " \n\t👍 ...\n")),
        ("without text of their own", message("S", "> Rain\n-- \nAda")),
        ("without text of their own", message("S")),
        ("without text of their own", raw("Subject: S\nContent-Type: multipart/mixed", "no boundary")),
        ("without text of their own", raw("Subject: S\nContent-Type: application/pkcs7-mime", "MIIB")),
        ("unreadable: unknown charset x-foo", raw("Subject: =?x-foo?B?/////w==?=")),
        ("unreadable: not in the charset stated, utf-8", raw("Subject: =?utf-8?Q?Gr=FC=DFe?=")),
        ("unreadable: no charset stated, and not UTF-8", raw(b"Subject: " + "Привет".encode("koi8-r"))),
        ("damaged", b"no header at all\n"),
        ("damaged", b"\n"),
    ],
)
def test_left_out(tmp_path: Path, reason: str, left: Given) -> None:
    assert left_out(tmp_path, left) == {reason: 1}


@pytest.mark.parametrize(
    "kept",
    [
        message("S", "Rain", Auto_Submitted="no"),
        message("S", "Rain", Auto_Submitted="No; sent by hand"),
        message("S", "Rain", Precedence="list"),
        message("S", "Rain", Status="RO", X_Status="A"),
        message("S", "Rain", Status="Total", X_Mozilla_Status="0001"),
        message("S", "Rain", X_Mozilla_Status="8 or so"),
        message("S", "Rain", X_Spam_Flag="NO", X_Gmail_Labels="Trash cans,My drafts"),
        message("S", "Rain", Date=None),
        message("S", "Rain", To=None),
        message("S", "Rain", From=BOB, Sender=f"Ada <{ME.upper()}>"),
        message("S", "Rain", From=f"{BOB}, {ME}"),
        raw("From: =?utf-8?Q?L=2C_Ada?= <ADA@example.ORG>\nSubject: S"),
        raw('From: "Bob <bob@example.com>" <ada@example.org>\nSubject: S'),
        raw('From: "Ada \\"A\\" <b@x>" <ada@example.org>\nSubject: S'),
        raw("From: ada@example.org <ada@example.org>\nSubject: S"),
        raw("From: Ada @ work < Ada@example.org >\nSubject: S"),
        raw("From: ada@example.org (Ada L.)\nSubject: S"),
    ],
)
def test_taken(tmp_path: Path, kept: Given) -> None:
    assert [row["subject"] for row in taken(tmp_path, kept)] == ["S"]


def test_invitations_are_the_persons_own(tmp_path: Path) -> None:
    head = 'Subject: S\nContent-Type: multipart/alternative; boundary="x"'
    body = "--x\n\nPlease come.\n--x\nContent-Type: text/calendar; method=REQUEST\n\nBEGIN:VCALENDAR\n--x--"
    assert run(mailbox(tmp_path, raw(head, body)))[1][0]["text"] == "Please come."


# Whose mail it is


@pytest.mark.parametrize(
    "label",
    [
        *("Sent", "Opened,Sent,Category Personal", '"Sent"', "Gesendet", "=?UTF-8?Q?Messages_envoy=C3=A9s,Ouvert?="),
        *("Enviados", "Posta inviata", "=?UTF-8?B?6YCB5L+h5riI44G/?=", "=?UTF-8?Q?Wys=C5=82ane,?=\n =?UTF-8?Q?X?="),
        *("=?UTF-8?Q?Ge=C3=B6ffnet,?=\n =?UTF-8?Q?Gesendet?=",),
    ],
)
def test_gmail_says_what_was_sent(tmp_path: Path, label: str) -> None:
    sent = raw(f"Subject: Rain\nX-Gmail-Labels: {label}")
    work = raw(f"From: ada@work.example\nSubject: Work\nX-Gmail-Labels: {label}")
    received = raw(f"From: {BOB}\nSubject: Sun\nX-Gmail-Labels: Inbox,Sent to me")
    itself = raw("Subject: To myself, not sent\nX-Gmail-Labels: Inbox")
    imported, rows = run(mailbox(tmp_path, received, work, sent, raw(f"Subject: R\nX-Gmail-Labels: {label}"), itself))
    assert [row["subject"] for row in rows] == ["Work", "Rain", "R"]
    assert imported.records == {pseudonym(ME): 3} and imported.left_out == {"not sent by you": 2}
    assert len(run(mailbox(tmp_path, received, work, sent), me=["ada@work.example"])[1]) == 1


# How Gmail names sent mail, drafts and the bin.
LANGUAGES = [
    *(("Gesendet", "Entwürfe", "Papierkorb"), ("Messages envoyés", "Brouillons", "Corbeille")),
    *(
        ("Posta inviata", "Bozze", "Cestino"),
        ("Correio enviado", "Rascunhos", "Lixo"),
        ("Wysłane", "Wersje robocze", "Kosz"),
    ),
    *(("Đã gửi", "Bản nháp", "Thùng rác"), ("Thư đã gửi", "Thư nháp", "Thùng rác"), ("Terkirim", "Draf", "Sampah")),
    *(("Poslano", "Skice", "Smeće"), ("Poslana pošta", "Osnutki", "Koš"), ("Послате", "Недовршене", "Отпад")),
    *(("Изпратени", "Чернови", "Кошче"), ("Надіслані", "Чернетки", "Кошик"), ("Odoslaná pošta", "Koncepty", "Kôš")),
    *(("Trimise", "Ciorne", "Coș de gunoi"), ("Saadetud kirjad", "Mustandid", "Prügikast")),
    *(("Išsiųsti laiškai", "Juodraščiai", "Šiukšliadėžė"), ("Nosūtītās vēstules", "Melnraksti", "Miskaste")),
    *(("דואר יוצא", "טיוטות", "אשפה"), ("بريد مرسل", "مسودات", "المهملات"), ("ارسال شده", "پیش‌نویس‌ها", "زباله‌دان")),
    *(("भेजी गई मेल", "ड्राफ़्ट", "ट्रैश"), ("จดหมายที่ส่งแล้ว", "ร่างจดหมาย", "ถังขยะ"), ("已发送", "草稿", "已删除邮件")),
    *(("寄件備份", "草稿", "垃圾桶"), ("보낸편지함", "임시보관함", "휴지통"), ("送信済み", "下書き", "ゴミ箱")),
    *(("Gönderilmiş Postalar", "Taslaklar", "Çöp Kutusu"), ("GÖNDERİLENLER", "TASLAKLAR", "ÇÖP")),
    *(("[Gmail]/Gesendet", "[Gmail]/Entwürfe", "[Google Mail]/Papierkorb"), (r"\\Sent", r"\\Draft", r"\\Trash")),
    *(("Gestuurde pos", "Konsepte", "Asblik"), ("Bidalitakoak", "Zirriborroak", "Zakarrontzia")),
    *(("Xsent", "Xdrafts", "Trash"),),  # a language that is not listed
]


def labelled(subject: str, *labels: str, **head: str | None) -> EmailMessage:
    given = Header(",".join(labels), "utf-8", maxlinelen=60).encode(linesep="")
    return message(subject, f"{subject}.", number=hash(subject) % 3000, X_Gmail_Labels=given, **head)


@pytest.mark.parametrize(("sent", "drafts", "trash"), LANGUAGES)
def test_labels_of_every_language(tmp_path: Path, sent: str, drafts: str, trash: str) -> None:
    file = box(
        tmp_path,
        labelled("Received", "Xinbox", "Xopened", From=BOB),
        *(labelled(f"Sent {n}", sent, "Xopened") for n in range(3)),
        labelled("To myself", sent, "Xinbox"),
        labelled("Draft", drafts, "Xopened"),
        labelled("Another draft", drafts, To=None),
        labelled("Binned", sent, trash),
    )
    listed = sent != "Xsent"
    for me in ([ME], []) if listed else ([ME],):
        imported, rows = run(file, me=me)
        assert {row["subject"] for row in rows} == {"Sent 0", "Sent 1", "Sent 2", "To myself"}
        assert imported.left_out.get("deleted") == 1
        assert imported.labels == {sent: 4, "Xopened": 3, "Xinbox": 1}
    if not listed:
        assert imported.left_out["drafts, by the label Xdrafts"] == 2


def test_what_else_is_labelled_is_no_draft(tmp_path: Path) -> None:
    answer = labelled("An answer", "Xinbox", From=BOB, In_Reply_To="<old@x>")
    kept = [
        labelled("Sent", "Sent", "Work, urgent"),
        labelled("Moved here", "Old mail", Message_ID="<old@x>"),  # somebody answered it
        labelled("From a list", "List", Received="from x by y; Mon, 6 May 2024 10:00:00 +0200"),
        labelled("Quoted", "Sent", '"Plans, Drafts"'),
        message("No label", "None."),
    ]
    assert len(taken(tmp_path, answer, *kept)) == 5
    assert len(taken(tmp_path, *(labelled(f"S {n}", "Xsent") for n in range(3)))) == 3
    assert len(taken(tmp_path, labelled("S", "Xsent", "Xa"), labelled("T", "Xsent", "Xb"))) == 2


def test_one_single_sender_needs_no_telling(tmp_path: Path) -> None:
    imported, rows = run(box(tmp_path, message("Rain", "Rain."), message("Sun", "Sun.", From=f"A <{ME.upper()}>")))
    assert len(rows) == 2 and imported.records == {pseudonym(ME): 2}


def test_several_senders_need_telling(tmp_path: Path) -> None:
    file = box(tmp_path, *(message("S", SECRET, From=f"{SECRET}{n}@example.org", number=n) for n in range(3)))
    error = refused(file)
    assert error.got == "mail from 3 addresses" and "--me" in str(error.command)
    assert "0 addresses" in str(refused(mailbox(tmp_path, b"no mail at all")))
    both = [f"{SECRET}1@example.org".upper(), f"Ada <{SECRET}2@example.org>"]
    imported, _ = run(file, me=both)
    assert imported.records == {pseudonym(both[0]): 2} and imported.left_out == {"not sent by you": 1}


def test_names_are_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    file = box(tmp_path, message("Rain", "Rain.", From="Ada <Ada@Example.org>"))
    assert run(file, keep_names=True)[1][0]["user_id"] == "ada@example.org"
    assert run(file, keep_names=True, me=["ADA@example.org", BOB])[1][0]["user_id"] == "ada@example.org"


@pytest.mark.parametrize("given", ["", " ", "ada", "<>", "Ada <ada>", "\x00"])
def test_what_is_no_address_is_refused(tmp_path: Path, given: str) -> None:
    assert "not a mail address" in str(refused(box(tmp_path, message("Rain", "Rain.")), me=[given]))
