# ruff: noqa: E501, RUF001
"""Bytes of mail under the name of another charset: read right, or refused, never read wrong."""

import pytest

from ownlm.importers.mail.charsets import CharsetError, decoded
from ownlm.importers.mail.likely import is_likely_utf8, is_western

# Real words of the languages that are written in cp1252, and signs around them.
WESTERN = """
Grüße aus Köln|äöüÄÖÜß|Umlaute: äöüß|Ääääh, öööh!|Tschüß, Jürgen|für 50 € – „größer“ als ‚klein‘|geht´s? Wie geht’s|½ Std
3×4 m², 10µm ±5°C, §5 ©2020 Müller® Windows™|Maße: 20×30 cm³|SÜSSÖL ÄÖÜ|50 £|£5 or ¥100|Größe ø 20|Fußnote¹|text² und³
Élève créée à Noël, où? çà et là|L´année d´été|« À bientôt »|œuvre, cœur, Œdipe|Crème brûlée, déjà-vu, maïs|HÔTEL FERMÉ À NOËL
«Él» ¿¡Él vino!? ¡Qué!|¿Cómo?|n° 5, 1º y 2ª|España, año, pingüino, áéíóú|niño—niña|Informações: coração, ações, põe, não há, avó
SÃO PAULO AÇÃO NÃO|EXCEÇÕES|Æblegrød på Ærø, rødgrød med fløde|æøå|Blåbærsyltetøy, kjøre|høyåpning|Smörgåsbord åäö|ägg, rött öl
Hääyöaie, pääöljy, ÄÄNI|hyvää yötä, työöä|jäääär, õhtu, sõber, öö|Það er þýðing á íslensku, þú ætlar, hæð óþýður|það síðáð|þú, þú
Ég heiti Þórður|Føroyskt, høvuðsstaðurin, kvøldmáltíð|Più così è perché lunedì città|Gàidhlig: dìreach, mòr, cùl|Això és història, països
Žižek est très lu|Zoë, naïve, één, vóór|Ångström|l’Haÿ-les-Roses|à|ö|É|¼ Pfund|10³|CO²|»Ärger«|Coup d’œil|Björk Guðmundsdóttir
"""
OTHERS = {
    "cp1251": "Привет, как дела?|Да|Ок, да|Спасибо|Дом|Тема|ну и что|Я тут|Hello друг|вопрос по Windows|Їжак|Добро јутро|Здравей",
    "koi8-r": "Привет, как дела?|Да|Нет|Дом|Тема|Hello друг|тест|сам|мама|Москва",
    "gb18030": "你好|测试|中文|会议|你好，这是一封信件|好的|是|我|請問|Hello 你好|关于OA系统",
    "cp1250": "Zażółć gęślą jaźń|książka|żółw|Łódź|dziękuję, proszę o książkę|příští týden|děkuji, čeština|erősítés|środa|coś",
    "iso8859-2": "Zażółć gęślą jaźń|książka|żółw|Łódź|środa|są|Můžete",
    "cp1256": "مرحبا كيف حالك|شكرا|نعم|لا|سلام",
    "cp1253": "Καλημέρα|Ναι|Γειά σου|και",
    "cp1255": "שלום|כן|לא|תודה רבה",
    "cp874": "สวัสดี|ครับ",
    "cp1254": "ışık ve güneş|İstanbul ağaç|başka iş|teşekkürler",
    "cp1257": "ąžuolas|ačiū žmogus|laukiu žinių",
    "cp932": "こんにちは|テスト|よろしくお願いします",
    "euc_jp": "こんにちは|テスト|日本語|東京",
    "big5": "測試|你好|會議",
    "cp949": "안녕|안녕하세요|네|감사합니다|회의",
}


def test_western_words_are_read_where_a_western_charset_is_stated() -> None:
    words = WESTERN.strip().replace("\n", "|").split("|")
    assert [word for word in words if not is_western(word)] == []
    assert [word for word in words if decoded(word.encode("cp1252"), "iso-8859-1") != word] == []


@pytest.mark.parametrize("stated", ["iso-8859-1", "windows-1252", "latin1"])
def test_other_words_are_refused_where_a_western_charset_is_stated(stated: str) -> None:
    for codec, words in OTHERS.items():
        for word in words.split("|"):
            with pytest.raises(CharsetError, match="not in the charset stated"):
                pytest.fail(f"{word} in {codec} became {decoded(word.encode(codec), stated)}")


def test_cyrillic_is_refused_where_iso_8859_15_is_stated() -> None:
    with pytest.raises(CharsetError):
        decoded("Привет".encode("cp1251"), "iso-8859-15")


# Words of which many are valid UTF-8 too: GB 2312's "thank you" would be two Cyrillic letters.
DOUBLE_BYTES = {
    "gb18030": "谢谢 小学 写 联通 好 嗯 哦 嘿 倩倩 佟 母 女 猫 OL女 ok么? Tom猫 小些 心新 信息 行 学习 聽 請 論 還 這 謝謝 臉 貓 佳佳 没有 每 美 模 默 暖 "
    "欧 偶 诺 型 些 校 笑 效 肖 孝 写作 邪 斜 鞋 协 携 卸 泻 屑 薪 芯 锌 欣 辛 星 腥 兴 刑 形 邢 醒 幸 杏 性 姓 兄 凶 胸 雄 熊 休 修 羞 朽 嗅 秀 袖 绣 娜娜 妈妈",
    "cp950": "謝謝 你好 測試 會議 媽媽 電話 貓 臉 請 論 還 這 聽 母 女 學習 小學 嗯 哦 喔 好 上海 臺北 香港",
    "cp949": "안녕 네 감사 타 특 챕터 짝 차 참 창 채 책 처 천 철 첫 청 체 초 총 최 추 축 출 춤 충 취 치 친 칠 침 카 칸 칼 커 컵 코 콘 콜 쿠 큰 클 키 타인 택시 차차 "
    "친구 추천 첨부 PC방 A씨 ok요 쯤 찌 쪽 쭉 金 李 朴",
    "cp932": "こんにちは テスト 日本語 ﾃｽﾄ ﾃｽ ﾐｿ ｻｸﾗ ﾄﾖﾀ ﾆｭｰｽ ﾊﾟｿｺﾝ ﾒｰﾙ ﾃﾞｰﾀ ﾄｳｷｮｳ ﾅｶﾞﾉ ﾀﾅｶ ﾆﾎﾝ ﾈｺ ﾐｶﾝ ﾅｼ ﾊﾅ ﾁｼ ﾂｷ PCﾃｽﾄ Cﾃｰﾌﾟ 髙橋 縺 鬱 蟹 薔薇 麒麟 檸檬 瑠璃 珈琲",
    "euc_jp": "こんにちは 日本語 会議 鬱 蟹 薔薇 麒麟 檸檬 馳 妊 猫 何 夏 歌 値 知 恥 地 池 置 竹 茶 中 昼 柱 注 虫 抽 著 貯 丁 兆 張 朝 町 聴 調 長 鳥 勅 直 沈 津 追",
}


def test_words_of_double_bytes_stay_what_they_are() -> None:
    stated = {"gb18030": "gb2312", "cp950": "big5", "cp949": "euc-kr", "cp932": "shift_jis", "euc_jp": "euc-jp"}
    also_utf8 = 0  # a check of the table
    for codec, words in DOUBLE_BYTES.items():
        for word in words.split():
            assert decoded(word.encode(codec), stated[codec]) == word
            assert not is_likely_utf8(word.encode(codec))
            also_utf8 += "\ufffd" not in word.encode(codec).decode("utf-8", "replace")
    assert also_utf8 > 80


@pytest.mark.parametrize("stated", ["shift_jis", "gb2312", "gbk", "gb18030", "big5", "euc-kr", "euc-jp", "x-sjis"])
@pytest.mark.parametrize(
    "words",
    [
        *("Grüße aus Köln", "Köln", "café", "Café", "été", "naïve", "Ärger", "Über uns", "École", "Łódź", "It’s", "“quoted” – 5 €"),
        *("Привет", "Спасибо, да", "лес", "你好", "谢谢", "你好，谢谢", "日本語のメールです", "日本", "안녕하세요", "Γεια", "שלום", "مرحبا"),
    ],
)  # fmt: skip
def test_utf8_is_read_where_a_charset_of_double_bytes_is_stated(stated: str, words: str) -> None:
    assert decoded(words.encode(), stated) == words


@pytest.mark.parametrize(
    "stated",
    ["utf-8", "iso-8859-1", "windows-1252", "shift_jis", "gb2312", "big5", "koi8-r", "euc-jp", "us-ascii", "", "x-foo", "utf-7"],
)  # fmt: skip
def test_escape_sequences_are_followed_under_any_name(stated: str) -> None:
    assert decoded("日本語 and more".encode("iso2022_jp"), stated) == "日本語 and more"
    assert decoded(b"\x1b$B-!\x1b(B 1", stated) == "① 1"
    assert decoded("안녕".encode("iso2022_kr"), stated) == "안녕"
    with pytest.raises(CharsetError, match="iso-2022-cn"):
        decoded(b"\x1b$)A\x0eDc:C\x0f", stated)
    if stated != "x-foo":
        assert decoded(b"\x1b[31mred\x1b[0m", stated) == "\x1b[31mred\x1b[0m"  # a terminal's colours


@pytest.mark.parametrize(
    ("stated", "data", "expected"),
    [
        ("iso-2022-jp", "日本".encode(), "日本"),
        ("iso-2022-jp", "日本語のメール".encode("cp932"), "日本語のメール"),
        ("iso-2022-jp", "日本語のメール".encode("euc_jp"), None),
        ("iso-2022-jp", "日本".encode("iso2022_jp") + " 語".encode(), "日本 語"),
        ("iso-2022-jp", b"\xff\xfd", None),
        ("gb2312", b"~{VPND~} mail", "中文 mail"),
        ("gb2312", b"~{not so~}", "~{not so~}"),
        # Greek: what Windows has for a capital alpha with tonos is an apostrophe in ISO 8859-7.
        ("iso-8859-7", "Άλφα, η Άννα".encode("cp1253"), "Άλφα, η Άννα"),
        ("iso-8859-7", "απ’ το σπίτι, να ’ναι, ‘έτσι’ Άλφα".encode("iso8859-7"), "απ’ το σπίτι, να ’ναι, ‘έτσι’ Άλφα"),
        ("iso-8859-7", "θα ’ρθω σ’ εσένα".encode("iso8859-7"), "θα ’ρθω σ’ εσένα"),
        # National variants of ASCII.
        *((name, b"Gr}~e [rger", "Grüße Ärger") for name in ("DIN_66003", "x-IA5-German", "iso646-de")),
        *((name, b"x}{ |l", "xåä öl") for name in ("SEN_850200_B", "x-IA5-Swedish", "iso-ir-10")),
        *((name, b"bl}b{r |l", "blåbær øl") for name in ("NS_4551-1", "x-IA5-Norwegian")),
        *((name, b"a {b}", None) for name in ("NF_Z_62-010", "x-IA5", "ISO646-IT", "BS_4730", "JUS_I.B1.002")),
        *((name, b"plain words.", "plain words.") for name in ("DIN_66003", "NF_Z_62-010", "x-IA5")),
        ("DIN_66003", "Grüße".encode(), "Grüße"),
    ],
)  # fmt: skip
def test_charsets_of_seven_bits_and_greek(stated: str, data: bytes, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(CharsetError, match=stated.lower() if stated != "iso-2022-jp" else "not in the charset"):
            pytest.fail(decoded(data, stated))
    else:
        assert decoded(data, stated) == expected
