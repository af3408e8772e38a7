"""Mailboxes for tests, written with the standard library's own `mailbox` and `email`."""

import mailbox
from collections.abc import Iterable
from email.message import EmailMessage
from pathlib import Path
from zlib import crc32

ME, BOB = "ada@example.org", "bob@example.com"
THINGS = ("soup", "boat", "garden", "train", "lamp", "piano")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday")
GREETINGS = ("Hello Bob,", "Grüß dich Jürgen,", "Добрый день, Иван!", "Žluťoučký kůň,", "Bonjour Zoë, ça va ?")
CHARSETS = ("utf-8", "iso-8859-1", "koi8-r", "iso-8859-2", "cp1252")


def message(subject: str | None, text: str | None = None, *, number: int = 0, **headers: str | None) -> EmailMessage:
    """A message from ME; None leaves a header out, and an underscore in its name is a dash."""
    mail = EmailMessage()
    given = {
        "From": f"Ada Lovelace <{ME}>",
        "To": BOB,
        "Subject": subject,
        "Date": f"Mon, 06 May 2024 10:{number // 60:02}:{number % 60:02} +0200",
        "Message-ID": f"<{number}.{crc32(f'{subject} {text}'.encode())}@mail.example.org>",
    }
    for name, value in (given | {name.replace("_", "-"): value for name, value in headers.items()}).items():
        if value is not None:
            mail[name] = value
    if text is not None:
        mail.set_content(text)
    return mail


def write_messages(path: Path, messages: Iterable[EmailMessage | bytes]) -> Path:
    """A mailbox of these; bytes are messages as they are."""
    path.unlink(missing_ok=True)
    box = mailbox.mbox(path)
    for each in messages:
        box.add(each)
    box.close()
    return path


def fresh(number: int) -> EmailMessage:
    """A message that begins something new: what its body is about stands in its subject."""
    thing, day = THINGS[number % len(THINGS)], DAYS[number // len(THINGS) % len(DAYS)]
    which = number % len(GREETINGS)
    text = f"{GREETINGS[which]}\n\nI write about the {thing}. Is {day} a good day for it?\n\nSee you,\nAda\n"
    mail = message(f"The {thing} on {day}", number=number)
    if number % 3 == 0:
        mail.set_content(text + f"\n-- \nAda Lovelace\n{ME}\n", charset=CHARSETS[which], cte="base64")
    elif number % 3 == 1:
        mail.set_content(text + "\nSent from my iPhone\n", charset=CHARSETS[which], cte="quoted-printable")
    else:
        mail.set_content("<p>" + text.replace("\n", "<br>") + "</p>", subtype="html", charset="utf-8")
    if number % 4 == 0:
        mail.add_attachment(bytes(range(256)) * 9, maintype="image", subtype="png", filename="boat.png")
    return mail


def write_mailbox(path: Path, me: str = ME) -> int:
    """A mailbox such as people have: sent and received, new and answered, in several charsets.

    Returns:
        How many records are to come out of it for `me`: messages whose subject follows from what they say.
    """
    new = [fresh(number) for number in range(len(THINGS) * len(DAYS))]
    quoted = f"No, another day.\n\nOn Mon, 6 May 2024 at 09:00, Bob <{BOB}> wrote:\n> Is Monday a good day for it?\n"
    others = [
        message("Re: The soup on Monday", quoted, number=100, In_Reply_To="<1@example.com>"),
        message(
            "Fwd: A recipe", f"See below.\n\n---------- Forwarded message ---------\nFrom: Bob <{BOB}>\n", number=101
        ),
        message("A recipe", "Boil it.", number=102, From=f"Bob <{BOB}>", To=me),
        message("The news", "It rains.", number=103, From="news@example.net", To=me, Precedence="bulk"),
        message("A draft", "I wanted to say", number=104, X_Mozilla_Draft_Info="internal/draft; vcard=0"),
        message("Away", "I am away.", number=105, Auto_Submitted="auto-replied"),
        message(None, "Without a subject.", number=106),
        message("Only a quotation", f"> Is {DAYS[0]} a good day for it?\n", number=107),
        message("Only a picture", number=108),
        fresh(3),
    ]
    others[-2].add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="boat.png")
    for mail in (*new, *others):  # "me" may have another address
        if ME in str(mail["From"]):
            mail.replace_header("From", f"Ada Lovelace <{me}>")
    write_messages(path, [mail for pair in zip(new, others, strict=False) for mail in pair] + new[len(others) :])
    return len(new)
