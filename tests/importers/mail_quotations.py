# ruff: noqa: RUF001
"""Texts of messages as mail programs write them, and what of each is the sender's own."""

B = "bob@example.com"
OWN = "Yes, on Monday.\nSee you."


def _above(quotation: str) -> str:
    return f"{OWN}\n\n{quotation}"


# Attribution lines before a quotation marked with ">", with breaks where mail programs put them.
_MARKED = {
    "gmail, broken before the closing bracket": f"On Mon, May 6, 2024 at 10:00 AM Bob Builder <{B}\n> wrote:",
    "gmail, broken within the brackets": f"On Mon, May 6, 2024 at 10:00 AM Bob Builder <\n{B}> wrote:",
    "gmail, broken at both brackets": f"On Mon, May 6, 2024 at 10:00 AM Bob Augustus Builder <\n{B}\n> wrote:",
    "broken in the name": f"On Mon, May 6, 2024 at 10:00 AM Bob\nAugustus Builder <{B}> wrote:",
    "broken in the date": f"On Mon, May\n6, 2024 at 10:00 AM Bob Builder <{B}> wrote:",
    "broken before the verb": f"On Mon, May 6, 2024 at 10:00 AM Bob Builder <{B}>\nwrote:",
    "in three lines": f"On Monday, May 6, 2024 at 10:00 AM,\nBob Augustus Builder\n<{B}> wrote:",
    "in four lines": f"On Monday,\nMay 6, 2024 at 10:00 AM,\nBob Augustus Builder <{B}>\nwrote:",
    "german, closing bracket": f"Am Mo., 6. Mai 2024 um 10:00 Uhr schrieb Bob Builder <{B}\n>:",
    "german, dem": "Am Montag, dem 06.05.2024 um 10:00 +0200 schrieb Bob\nBuilder:",
    "german, google groups": "Bob Builder schrieb am Montag, 6. Mai 2024 um\n10:00:00 UTC+2:",
    "french, closing bracket": f"Le lun. 6 mai 2024 à 10:00, Bob Builder <{B}\n> a écrit :",
    "french, broken in the verb": f"Le lun. 6 mai 2024 à 10:00, Bob Builder <{B}> a\nécrit :",
    "spanish, closing brackets": f"El lun, 6 may 2024 a las 10:00, Bob Builder (<{B}\n>) escribió:",
    "italian": f"Il giorno lun 6 mag 2024 alle ore 10:00 Bob Builder <\n{B}> ha scritto:",
    "portuguese": f"Em seg., 6 de mai. de 2024 às 10:00, Bob Builder <{B}\n> escreveu:",
    "dutch": f"Op ma 6 mei 2024 om 10:00 schreef Bob Builder <{B}\n>:",
    "dutch, apple": f"Op 6 mei 2024, om 10:00 heeft Bob Builder <{B}> het volgende\ngeschreven:",
    "polish": f"pon., 6 maj 2024 o 10:00 Bob Builder <{B}\n> napisał(a):",
    "russian": f"пн, 6 мая 2024 г. в 10:00, Bob Builder <{B}\n>:",
    "russian, mail.ru": f"Понедельник, 6 мая 2024, 10:00 +03:00 от Bob Builder <{B}>:",
    "ukrainian": f"пн, 6 трав. 2024 р. о 10:00 Bob Builder <{B}> пише:",
    "czech": f"po 6. 5. 2024 v 10:00 odesílatel Bob Builder <{B}\n> napsal:",
    "slovak": f"po 6. 5. 2024 o 10:00 Bob Builder <{B}>\nnapísal(a):",
    "swedish": f"Den mån 6 maj 2024 kl 10:00 skrev Bob Builder <{B}\n>:",
    "danish": f"Den man. 6. maj 2024 kl. 10.00 skrev Bob Builder <\n{B}>:",
    "norwegian": f"man. 6. mai 2024 kl. 10:00 skrev Bob Builder <{B}\n>:",
    "finnish": f"ma 6. toukok. 2024 klo 10.00 Bob Builder (<{B}\n>) kirjoitti:",
    "hungarian": f"Bob Builder <{B}> ezt írta (időpont: 2024. máj.\n6., H, 10:00):",
    "romanian": f"În lun., 6 mai 2024 la 10:00, Bob Builder <{B}> a\nscris:",
    "turkish": f"Bob Builder <{B}>, 6 May 2024 Pzt,\n10:00 tarihinde şunu yazdı:",
    "greek": f"Στις Δευ 6 Μαΐ 2024 στις 10:00 π.μ., ο χρήστης Bob Builder <\n{B}> έγραψε:",
    "bulgarian": f"На пн, 6.05.2024 г. в 10:00 Bob Builder <{B}> написа:",
    "croatian": f"pon, 6. svi 2024. u 10:00 Bob Builder <{B}> napisao je:",
    "hebrew": f"\u202bבתאריך יום ב׳, 6 במאי 2024 ב-10:00 מאת \u202aBob\u202c\u200f <\u202a{B}\u202c\u200f>:\u202c",
    "hebrew, closing bracket": f"\u202bבתאריך 6 במאי 2024 ב-10:00 מאת Bob <\u202a{B}\u202c\u200f\n>:\u202c",
    "korean, without an address": "2024. 5. 6. 오전 10:00, Bob Builder 이(가) 쓴 글:",
    "gmail without a verb": "Bob Builder, Mo., 6. Mai 2024, 10:00:",
    "usenet": "In reply to Bob's message of Mon, 6 May 2024 10:00:02 +0200:",
    "arabic": f"في الاثنين، 6 مايو 2024 في 10:00 ص تمت كتابة ما يلي بواسطة Bob\nBuilder <{B}>:",
    "vietnamese": f"Vào Th 2, 6 thg 5, 2024 vào lúc 10:00 Bob Builder <{B}>\nđã viết:",
    "thai": f"ในวันที่ จ. 6 พ.ค. 2024 เวลา 10:00 Bob Builder <{B}> เขียนว่า:",
    "indonesian": f"Pada Sen, 6 Mei 2024 pukul 10.00 Bob Builder <{B}>\nmenulis:",
    "chinese": f"Bob Builder <{B}\n> 于2024年5月6日周一 10:00写道：",
    "chinese, 163": f'在 2024-05-06 10:00:00，"Bob Builder" <{B}> 写道：',
    "japanese": f"2024年5月6日(月) 10:00 Bob Builder <{B}\n>:",
    "korean": f"2024년 5월 6일 (월) 오전 10:00, Bob Builder <{B}>님이 작성:",
    "a language that is not listed": f"Xa 6 Xai 2024 xe 10:00, Bob Builder <{B}> xuxu:",
    "yahoo, old": f"--- On Mon, 5/6/24, Bob Builder <{B}> wrote:",
    "spark": f"On 6 May 2024, 10:00 +0200, Bob Builder <{B}>, wrote:",
    "postbox": "Bob Builder wrote on 5/6/24 10:00 AM:",
    "horde": f"Quoting Bob Builder <{B}>:",
}

# Quotations that nothing marks but what stands before them.
_UNMARKED = {
    "gmail as text": f"On Mon, May 6, 2024 at 10:00 AM Bob Builder <{B}\n> wrote:\n\nRain?",
    "iphone, german": f"Am 06.05.2024 um 10:00 schrieb Bob Builder <{B}>:\n\nRegen?",
    "yahoo": f"On Monday, May 6, 2024 at 10:00:00 AM GMT+2, Bob Builder\n<{B}> wrote:\n\nRain?",
    "mail.ru": f"Понедельник, 6 мая 2024, 10:00 +03:00 от Bob Builder <{B}>:\n\nДождь?",
    "lotus notes": f'-----"Bob Builder" <{B}> wrote: -----\nTo: Ada\n\nRain?',
    "blackberry": "Original Message\nFrom: Bob\nSent: Monday, May 6, 2024 10:00\nTo: Ada\nSubject: Rain\n\nRain?",
    "qq": f"------------------ Original ------------------\nFrom: Bob <{B}>\nSubject: Rain\n\nRain?",
    "qq, chinese": "------------------ 原始邮件 ------------------\n发件人: Bob\n发送时间: 2024年5月6日\n\n雨？",
    "foxmail": "发件人： Bob\n发送时间： 2024-05-06 10:00\n收件人： Ada\n主题： 雨\n\n雨？",
    "hotmail": f"Date: Mon, 6 May 2024 10:00:00 +0200\nSubject: Rain\nFrom: {B}\nTo: ada@example.org\n\nRain?",
    "an unlisted line of dashes": f"-------- Xuxu xaxa --------\nFrom: Bob <{B}>\nSubject: Rain\n\nRain?",
    "outlook, bold": "**From:** Bob\n**Sent:** Monday\n**To:** Ada\n**Subject:** Rain\n\nRain?",
    "outlook, rule": "____________________________\nVon: Bob\nGesendet: Montag\n\nRegen?",
    "outlook, russian": "От: Bob\nОтправлено: 6 мая 2024 г. 10:00\nКому: Ada\nТема: Дождь\n\nДождь?",
    "outlook, turkish": "Kimden: Bob\nGönderildi: 6 Mayıs 2024\nKime: Ada\nKonu: Yağmur\n\nYağmur?",
    "outlook, hebrew": "מאת: Bob\nנשלח: יום שני 6 מאי 2024\nאל: Ada\nנושא: גשם\n\nגשם?",
    "outlook, arabic": "من: Bob\nتم الإرسال: 6 مايو 2024\nإلى: Ada\nالموضوع: مطر\n\nمطر؟",
    "outlook, greek": "Από: Bob\nΣτάλθηκε: Δευτέρα\nΠρος: Ada\nΘέμα: Βροχή\n\nΒροχή;",
    "outlook, korean": "보낸 사람: Bob\n보낸 날짜: 2024년 5월 6일\n받는 사람: Ada\n제목: 비\n\n비?",
    "outlook, hungarian": "Feladó: Bob\nElküldve: hétfő\nCímzett: Ada\nTárgy: Eső\n\nEső?",
    "outlook, romanian": "De la: Bob\nTrimis: luni\nCătre: Ada\nSubiect: Ploaie\n\nPloaie?",
    "outlook, dutch": "Van: Bob\nDatum: maandag 6 mei 2024\nAan: Ada\nOnderwerp: Regen\n\nRegen?",
    "outlook, polish": "Od: Bob\nWysłano: poniedziałek\nDo: Ada\nTemat: Deszcz\n\nDeszcz?",
}

# A person's own words that look like such lines.
_OWN_WORDS = {
    "a sentence in prose": "On Monday we wrote: it rains. On 6 May 2024 at 10:00 nobody wrote: it rained.\nSo be it.",
    "a list": "On Monday we wrote:\n- a letter\n- a card",
    "times": "See you at 10:00 on 6 May 2024\nand bring: boots\nBob",
    "an address": f"Ask Bob <{B}> for it\nor wait.",
    "headers in prose": "To: whom it may concern\nDate: today\n\nIt rains.",
    "dashes": "---- Agenda ----\nFrom noon on: rain\nThen: sun",
    "a bracket": "The value is < 5\nand > 2:\nrain.",
    "an announcement": "On 6 May the office writes as follows:\nIt rains.\nI agree.",
    "a sentence like a telephone's signature": "It rains.\n\nSent from my desk, it is easier than by telephone.",
    "a schedule": "Monday, 6 May 2024:\n10:00 rain:\n11:00 sun\n\nFrom: 10:00\nTo: 11:00\nSubject: rain",
    "two sentences": "At 10:00 on 6 May 2024 I was there.\nBob wrote a book:\nRain.",
    "two lines like headers": "Od: jutra\nTemat: deszcz\n\nTak.",
    "an open bracket": f"Mail him <{B}>\nif it rains: call.",
}

# Name, text, and what of it is the sender's own.
QUOTATIONS: list[tuple[str, str, str]] = [
    *((name, _above(f"{line}\n\n> Rain?\n>> Sun?\n> {B}\n"), OWN) for name, line in _MARKED.items()),
    *((f"{name}; answered below", f"{line}\n> Rain?\n\n{OWN}\n", OWN) for name, line in list(_MARKED.items())[::5]),
    *((name, _above(text), OWN) for name, text in _UNMARKED.items()),
    *((name, text, text) for name, text in _OWN_WORDS.items()),
    (
        "answers between quotations",
        f"Thanks\nOn Mon, May 6, 2024 at 10:00 AM Bob Builder <{B}\n> wrote:\n> Rain?\nYes.\n\n> Sun?\nNo.\n> Bob",
        "Thanks\nYes.\n\nNo.",
    ),
    (
        "a line of one's own right above",
        f"Call me at 10:00 on 6 May 2024\nOn Mon, May 6, 2024 at 10:00 AM Bob Builder <{B}> wrote:\n> Rain?",
        "Call me at 10:00 on 6 May 2024",
    ),
    ("figures marked by >", "As of 10:00 on 6 May 2024, status:\n> 5 open", "As of 10:00 on 6 May 2024, status:"),
    ("one's own words above prose", "I agree\nOn it\n\nAm 6. Mai 2024 schrieb Bob:\n> Rain?", "I agree\nOn it"),
]
