# ruff: noqa: RUF001
"""The words that mail programs add around the sender's text, in many languages.

To add a language, add its words here; nothing else has to change. Lower-case words match in any case.
"""

from typing import Final


def _listed(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for line in words.strip().splitlines() for word in line.split("|"))


# Prefixes of replies and forwards, such as "Re:"; not "FS:" (for sale) nor "Ref:".
PREFIXES: Final = _listed("""
    re | fwd | fw | aw | wg | sv | vs | vb | vl | antw | antwort | doorst | rv | res | enc | tr | réf | rif | odp | pd
    ynt | ilt | i̇lt | yanıt | отв | ответ | отвт | відп | відповідь | отг | отговор | одг | пер | пересл
    atb | yml | απ | σχετ | πρθ | vá | továbbítás | odg | posr | ats | atsakymas | bls | trs | ｒｅ | ｆｗ | ｆｗｄ
    回复 | 答复 | 回覆 | 答覆 | 转发 | 轉寄 | 轉發 | 返信 | 転送 | 답장 | 전달 | 회신 | تجاوب | رد | إعادة توجيه | پاسخ
    תשובה | תגובה | הועבר | העברה | ตอบ | ตอบกลับ | ส่งต่อ | trả lời | chuyển tiếp
""")
NO_SUBJECT: Final = _listed("""
    no subject | (no subject) | (kein betreff) | (aucun objet) | (sans objet) | (sin asunto) | (nessun oggetto)
""")

# An attribution line contains one of these, or ends with an address.
WROTE: Final = _listed("""
    wrote | writes | schrieb | schreibt | a écrit | escribió | ha scritto | scrive | escreveu | schreef
    skrev | skriver | kirjoitti | napisał | pisze | napsal | написал | писал | пишет | пише | έγραψε | yazdı
    írta | 写道 | 寫道 | さんは書きました | のメッセージ | のメール | 작성 | geschreven | scrisse | napísal | napisao
    napisala | написао | написала | је написао | rašė | rakstīja | kirjutas | a scris | va escriure | escribiu
    idatzi | skrifaði | shkroi | menulis | tulis | đã viết | viết | เขียน | כתב | כתבה | كتب | كتبت | نوشت
    ने लिखा | লিখেছেন | எழுதினார் | 쓴 글 | さんが書きました | 書きました | написа | написав | напісаў
    skreiv | yazmış | yazan | ha escrit | έγραψαν | ezt írta
""")
# A certain attribution begins with one of these, or with a day.
ON: Final = _listed("""
    On | At | Am | Le | El | Il | In data | Em | Op | Den | På | Dne | Dnia | W dniu | Στις | 在 | Il giorno
    Dňa | Dana | Pe | În | Vào | Ngày | Pada | На | У | В | Во | Την | Τη | Kuupäeval | No dia | O dia
    El dia | בתאריך | ב- | في | در | Tarih | 於 | เมื่อ | Á | Þann | Datë | Yn | Ar
""")

# One of these between dashes precedes a whole quoted message.
ORIGINAL_MESSAGE: Final = _listed("""
    original message | forwarded message | ursprüngliche nachricht | originalnachricht | original-nachricht
    weitergeleitete nachricht | message d'origine | message d’origine | message original | message transféré
    mensaje original | mensaje reenviado | messaggio originale | messaggio inoltrato | mensagem original
    mensagem encaminhada | oorspronkelijk bericht | doorgestuurd bericht | ursprungligt meddelande
    vidarebefordrat meddelande | oprindelig meddelelse | oprindelig besked | videresendt meddelelse
    videresendt besked | opprinnelig melding | videresendt melding | alkuperäinen viesti | oryginalna wiadomość
    wiadomość oryginalna | przekazana wiadomość | původní zpráva | přeposlaná zpráva | исходное сообщение
    пересылаемое сообщение | 原始邮件 | 转发邮件 | 原始郵件 | 元のメッセージ | 원본 메시지
""")
# Apple Mail, without dashes.
BEGIN_FORWARDED: Final = _listed("""
    begin forwarded message | anfang der weitergeleiteten nachricht | anfang der weitergeleiteten e-mail
    début du message transféré | début du message réexpédié | inicio del mensaje reenviado
    inizio messaggio inoltrato | begin doorgestuurd bericht | vidarebefordrat brev | start på vidresendt meddelelse
""")
# Header names of a quoted message.
FROM: Final = _listed("""
    From | Von | De | Da | Van | Från | Fra | Lähettäjä | Od | От | Від | Feladó | Kimden | Από | 发件人
    寄件者 | 寄件人 | 差出人 | 보낸 사람 | 보낸사람 | От кого | Gönderen | De la | Expeditor | Expéditeur
    Saatja | Nuo | Pošiljatelj | Šalje | Pošiljalac | Шаље | Absender | Mittente | Remitente | Remetente
    Afzender | Avsändare | Avsender | Afsender | Nadawca | Odesílatel | Odosielateľ | Отправитель | Відправник
    Подател | 送信者 | 送信元 | מאת | من | از | Dari | Từ | จาก
""")
SENT_OR_SUBJECT: Final = _listed("""
    Sent | Subject | Gesendet | Betreff | Envoyé | Envoyée | Objet | Enviado | Enviado el | Enviada em
    Asunto | Assunto | Inviato | Oggetto | Verzonden | Onderwerp | Skickat | Ämne | Sendt | Emne | Lähetetty
    Aihe | Wysłano | Temat | Odesláno | Předmět | Отправлено | Тема | Надіслано | Elküldve | Tárgy
    Gönderildi | Konu | Θέμα | 发送时间 | 主题 | 主旨 | 送信日時 | 件名 | 보낸 날짜 | 제목 | Sujet | Envoyé le
    Enviada | Enviados | Enviado em | Enviat | Assumpte | Predmet | Zadeva | Naslov | Subiect | Trimis
    Trimis la | Teema | Saadetud | Tema | Išsiųsta | Nosūtīts | Poslano | Poslato | Послато | Odoslané
    Изпратено | Относно | Στάλθηκε | Εστάλη | Sent at | Gönderilme Zamanı | Gönderim | 发送日期 | 傳送日期
    寄件日期 | 日時 | 보낸 시간 | נושא | נשלח | الموضوع | تم الإرسال | موضوع | เรื่อง | ส่ง | Chủ đề | Tiêu đề
    Perihal | Subjek | Dikirim
""")

OTHER_HEADER: Final = _listed("""
    To | Cc | Bcc | Date | Reply-To | Importance | Attachments | An | Kopie | Datum | Antwort an | À | Pour
    Para | Copie | Fecha | Data | A | Aan | Till | Til | Kopia | Dato | Vastaanottaja | Kopio | Päivämäärä
    Päiväys | Do | DW | Komu | Kopija | Кому | Копия | Дата | Копія | Címzett | Másolatot kap | Dátum | Kime
    Bilgi | Tarih | Προς | Κοιν. | Ημερομηνία | Către | 收件人 | 收件者 | 抄送 | 副本 | 日期 | 宛先 | 日付
    받는 사람 | 받는사람 | 참조 | 날짜 | אל | תאריך | إلى | التاريخ | تاریخ | به | ถึง | วันที่ | Đến | Ngày
    Kepada | Tanggal | Kam | Kuupäev | Datums | Prejemnik
""")

# Telephones' signatures: beginnings and ends of the line.
DEVICE: Final = _listed("""
    sent from my | sent from mail for | sent from outlook | sent from yahoo | sent from proton
    sent from the all-new | sent from samsung | sent from gmail | sent with proton | sent via | sent using
    get outlook for | gesendet von mail | gesendet von outlook | gesendet von meinem | gesendet mit der
    von meinem iphone | von meinem ipad | von meinem samsung | von meinem handy | von meinem android
    von meinem smartphone | diese nachricht wurde von meinem | envoyé de mon | envoyé depuis
    envoyé à partir d | télécharger outlook pour | enviado desde mi | enviado desde outlook | enviado do meu
    enviado de mi | enviado a partir d | obtener outlook para | inviato da | verzonden vanaf mijn
    verstuurd vanaf mijn | skickat från min | sendt fra min | lähetetty | wysłane z | odesláno z
    отправлено с | отправлено из | надіслано з | 从我的 iphone | 从我的iphone | 发自我的 | 發自我的
    odoslané z môjho | poslano s mojeg | poslano iz mojega | изпратено от моя | trimis de pe | στάλθηκε από το
    enviat des del meu | נשלח מה | أرسلت من | أُرسلت من | được gửi từ | ส่งจาก | dikirim dari
    dihantar daripada | saadetud minu | sent fra min | enviado a través de | obter o outlook | scarica outlook
    outlook für | hämta outlook | hent outlook | download outlook | pobierz outlook | yahoo mail:
    yahoo mail für | gesendet mit | envoyé avec | inviato con | verzonden met | verzonden via
    von unterwegs gesendet | 从 windows | 发送自
""")
DEVICE_END: Final = _listed("""
    から送信 | 에서 보냄
    から送信されました | umdan gönderildi | imden gönderildi | 'ten gönderildi | を入手
""")
