# ruff: noqa: RUF001
"""Gmail's labels in Google Takeout, which are in the language of the account."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection
from hashlib import sha256
from typing import Final, NamedTuple
from unicodedata import normalize


def _plain(label: str) -> str:
    """Normalises a label: no case, quotation marks, backslashes or invisible characters."""
    label = re.sub('["\\\\\u200b-\u200f\u2060\xad]', "", normalize("NFC", label)).strip().lower()
    return re.sub(r"^\[(?:gmail|google mail)\]/", "", label).replace("i\u0307", "i")


def _listed(words: str) -> frozenset[str]:
    return frozenset(_plain(word) for line in words.strip().splitlines() for word in line.split("|"))


SENT: Final = _listed("""
    sent | sent mail | sent messages | gesendet | messages envoyés | envoyés | enviados | enviado
    e-mails enviados | correio enviado | mensagens enviadas | correo enviado | correu enviat | enviats
    inviati | posta inviata | verzonden | verzonden berichten | skickat | skickade | skickade mail
    skickade meddelanden | sendt | sendte | sendt e-post | sendt post | sendte mails | lähetetyt | wysłane
    wysłane wiadomości | odeslané | odesláno | odeslaná pošta | odoslané | odoslaná pošta | poslano
    poslana pošta | poslato | poslate | послате | послато | послата пошта | отправленные | надіслані
    надіслано | адпраўленыя | изпратени | изпратена поща | испратени | илгээсэн | жіберілген | жіберілгендер
    gönderilmiş postalar | gönderilenler | gönderilmiş | göndərilmiş | yuborilgan | elküldött
    elküldött levelek | elküldött üzenetek | trimise | mesaje trimise | corespondență trimisă | απεσταλμένα
    saadetud | saadetud kirjad | išsiųsta | išsiųsti laiškai | nosūtīts | nosūtītās | nosūtītās vēstules
    bidalitakoak | bidalitako mezuak | gestuurde pos | gestuur | sendur póstur | seolta | të dërguarat
    terkirim | pesan terkirim | surat terkirim | dihantar | mel dihantar | mel terhantar | naipadala
    naipadala na mail | đã gửi | thư đã gửi | zilizotumwa | barua zilizotumwa | imetumwa | okuthunyelwe
    imeyili ethunyelwe | senditaj | ուղարկված | გაგზავნილი | გაგზავნილი წერილები | נשלח | דואר יוצא
    דואר שנשלח | המרسل | المرسلة | المرسل | بريد مرسل | البريد المرسل | ارسال شده | پست ارسالی
    نامه‌های ارسالی | بھیجی گئی | بھیجا گیا میل | ارسال کردہ | भेजा गया | भेजे गए | भेजी गई मेल
    भेजे गए मेल | पाठवलेले | पाठविलेले | पाठवलेले मेल | पठाइएको | পাঠানো | প্রেরিত মেল | પ્રેષિત | મોકલેલ
    મોકલેલો મેઇલ | ਭੇਜੀ ਮੇਲ | அனுப்பியவை | அனுப்பப்பட்டவை | அனுப்பிய அஞ்சல் | పంపినవి | పంపబడినవి
    పంపిన మెయిల్ | ಕಳುಹಿಸಲಾಗಿದೆ | ಕಳುಹಿಸಿದ ಮೇಲ್ | അയച്ചവ | അയച്ച മെയിൽ | යැවූ | යැවූ තැපෑල | ส่ง | ส่งแล้ว
    จดหมายที่ส่งแล้ว | ສົ່ງແລ້ວ | ຈົດໝາຍທີ່ສົ່ງ | បានផ្ញើ | ပို့ပြီးစာ | የተላከ ደብዳቤ | የተላኩ | 送信済み
    送信済みメール | 已发送 | 已发邮件 | 已发送邮件 | 已傳送 | 已傳送郵件 | 已寄出 | 寄件備份 | 보낸편지함
""")
DRAFTS: Final = _listed("""
    draft | drafts | entwurf | entwürfe | brouillon | brouillons | borrador | borradores | bozza | bozze
    rascunho | rascunhos | concept | concepten | utkast | kladde | kladder | luonnos | luonnokset | robocze
    wersje robocze | wersja robocza | kopie robocze | koncept | koncepty | rozpísané | rozpracované | skice
    nacrti | nacrt | nedovršeno | nedovršene | osnutki | osnutek | недовршено | недовршене | нацрти | нацрт
    радне верзије | черновики | черновик | чернетки | чернетка | чарнавікі | чернови | чернова | ноорог
    жобалар | нобайлар | taslaklar | taslak | qaralamalar | qoralamalar | piszkozatok | piszkozat | ciorne
    schițe | mesaje nefinalizate | esborranys | esborrany | πρόχειρα | πρόχειρο | mustandid | mustand
    juodraščiai | juodraštis | melnraksti | melnraksts | zirriborroak | konsepte | konsep | drög | dréachtaí
    draftet | skicat | drafftiau | draf | mga draft | thư nháp | bản nháp | nháp | rasimu | amadrafti
    okusalungiswa | malnetoj | սևագրեր | მონახაზები | დრაფტები | შავი პირები | טיוטות | טיוטה | المسودات
    مسودات | مسودة | پیش‌نویس‌ها | پیش‌نویس | پیش نویس | پیش نویس ها | ڈرافٹس | ڈرافٹ | مسودے | ड्राफ़्ट
    ड्राफ्ट | ड्राफ़्ट्स | मसुदे | मसुदा | मस्यौदा | ड्राफ्टहरू | ড্রাফ্ট | ড্রাফ্টগুলি | খসড়া | ડ્રાફ્ટ
    ડ્રાફ્ટ્સ | ਡ੍ਰਾਫਟ | வரைவுகள் | வரைவு | చిత్తుప్రతులు | డ్రాఫ్ట్ | డ్రాఫ్ట్‌లు | ಡ್ರಾಫ್ಟ್ | ಡ್ರಾಫ್ಟ್‌ಗಳು
    ഡ്രാഫ്റ്റ് | ഡ്രാഫ്റ്റുകൾ | කෙටුම්පත් | ร่าง | ร่างจดหมาย | จดหมายร่าง | ສະບັບຮ່າງ | ຮ່າງ | ព្រាង
    សេចក្តីព្រាង | မူကြမ်း | မူကြမ်းများ | ረቂቆች | 下書き | 草稿 | 草稿箱 | 임시보관함 | 임시 보관함
""")
TRASH: Final = _listed("""
    trash | bin | papierkorb | corbeille | papelera | papeleira | cestino | lixeira | lixo | prullenbak
    papperskorgen | papirkurv | papirkurven | roskakori | kosz | koš | kôš | smeti | smeće | otpad | отпад
    смеће | корпа | корзина | кошик | сметніца | кошче | хогийн сав | себет | çöp kutusu | çöp
    zibil qutusu | savat | kuka | coș de gunoi | coș | paperera | κάδος | κάδος απορριμμάτων | prügikast
    šiukšliadėžė | šiukšlinė | miskaste | atkritne | zakarrontzia | asblik | rusl | ruslakista | bruscar
    koshi | sbwriel | sampah | tong sampah | basurahan | thùng rác | tupio | udoti | imfucumfucu | rubujo
    աղբաման | ურნა | სანაგვე | אשפה | פח | פח אשפה | פריטים שנמחקו | المهملات | سلة المهملات | زباله‌دان
    سطل زباله | حذف‌شده‌ها | کوڑے دان | ردی | ट्रैश | ट्रेश | कचरा | ट्रॅश | रद्दी टोकरी | ট্র্যাশ | ટ્રેશ
    ਰੱਦੀ | குப்பை | நீக்கப்பட்டவை | ట్రాష్ | చెత్తబుట్ట | ಅನುಪಯುಕ್ತ | ಟ್ರ್ಯಾಶ್ | ട്രാഷ് | ඉවතලන | ถังขยะ
    ຖັງຂີ້ເຫຍື້ອ | ធុងសំរាម | အမှိုက်ပုံး | መጣያ | ゴミ箱 | 垃圾箱 | 已删除邮件 | 已刪除的郵件 | 回收站
    垃圾桶 | 휴지통
""")
SPAM: Final = _listed("""
    spam | junk | спам | спам-почта | непожељно | нежељене | neželjena pošta | vsiljena pošta
    neželena pošta | nevyžiadaná pošta | correo no deseado | correu brossa | brossa | pourriel | skräppost
    søppelpost | roskaposti | ongewenste e-mail | rämpspost | šlamštas | mēstules | surogātpasts
    mesaje spam | ανεπιθύμητα | ανεπιθύμητη αλληλογραφία | gemorspos | ruslpóstur | turscar | sbam | spama
    thư rác | barua taka | taka | ugaxekile | սպամ | სპამი | דואר זבל | ספאם | غير مرغوب فيه
    بريد غير مرغوب فيه | هرزنامه | سپیم | स्पैम | स्पेम | स्पॅम | स्प्याम | স্প্যাম | સ્પામ | ਸਪੈਮ | ஸ்பேம்
    స్పామ్ | ಸ್ಪ್ಯಾಮ್ | സ്പാം | අයාචිත තැපෑල | จดหมายขยะ | สแปม | ສະແປມ | សារឥតបានការ | စပမ်း | 迷惑メール
    垃圾邮件 | 垃圾郵件 | 스팸함
""")
CHATS: Final = _listed("""
    chat | chats | clavardage | chatten | chaty | czat | czaty | чат | чаты | чати | sohbet | sohbetler
    csevegés | csevegések | συνομιλία | συνομιλίες | conversas | צ'אט | צ'אטים | دردشة | چت | चैट | แชท
    チャット | 聊天 | 聊天记录 | 채팅
""")


def parsed_labels(given: str) -> dict[str, str]:
    """Parses the header X-Gmail-Labels: normalised names, with the original ones.

    >>> parsed_labels('Sent,"Work, urgent"')
    {'sent': 'Sent', 'work, urgent': 'Work, urgent'}
    """
    found = (label.strip(' "') for label in re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+', given))
    return {plain: label for label in found if (plain := _plain(label))}


class _Use(NamedTuple):
    """Statistics of the messages with one label."""

    ids: set[bytes]  # number of the owner's messages
    beside: set[str]  # other labels on the owner's messages


class LabelUse:
    """Label statistics of a mailbox, which reveal the draft label in a language not listed above.

    The draft label is never on others' mail nor beside the label of sent mail; drafts passed no server and have no
    replies.
    """

    def __init__(self) -> None:
        self._own: Counter[str] = Counter()
        self._labelled = 0
        self._use: defaultdict[str, _Use] = defaultdict(lambda: _Use(set(), set()))
        self._others: set[str] = set()
        self._passed: set[str] = set()
        self._answered: set[bytes] = set()

    def add_own(self, labels: Collection[str], id: str, passed_server: bool) -> None:
        """Adds a message of the mailbox's owner."""
        self._labelled += bool(labels)
        for label in labels:
            self._own[label] += 1
            self._use[label].beside.update(labels)
            self._use[label].ids.add(_digest(id))
        if passed_server:
            self._passed.update(labels)

    def add_others(self, labels: Collection[str], answered: str) -> None:
        """Adds another sender's message; `answered` has the ids of earlier messages."""
        self._others.update(labels)
        self._answered.update(map(_digest, re.findall(r"<[^<>\s]+>", answered)))

    def drafts(self) -> frozenset[str]:
        """Unlisted labels that mark drafts."""
        own = {label: count for label, count in self._own.items() if label not in self._others}
        sent = {label for label in self._own if label in SENT}
        if not sent and own and max(own.values()) < self._labelled:  # a label on all messages says nothing
            sent = {max(own, key=own.__getitem__)}
        return frozenset(
            label
            for label in (own.keys() - sent - self._passed if sent else ())
            if sent.isdisjoint(self._use[label].beside) and self._answered.isdisjoint(self._use[label].ids)
        )


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()[:8]
