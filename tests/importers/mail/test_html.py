"""HTML read as text, and what of it is the sender's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownlm.importers.mail.html import html_text
from tests.importers.mail.messages import html


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("<p>a<p>b<br>c<div>d</div>e", "a\n\nb\nc\nd\ne"),
        ("<div>a</div><div>b</div> <div><br></div><div>c&nbsp;&amp; d<br></div>\n<div>e</div>", "a\nb\n\nc & d\ne"),
        ("a<br><br><br/>b<hr>c", "a\n\nb\n\nc"),
        ("a\n  b\t c", "a b c"),
        ("<pre>a\n  b</pre>\nc\nd", "a\nb\n\nc d"),
        ("<ul><li>a</li><li>b</li></ul>c", "- a\n- b\n\nc"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
        ("<html><head><title>t</title><style>p {}</style></head><body>a<script>x < y</script></body></html>", "a"),
        ("a<!-- no --><!--[if gte mso 9]><xml>x</xml><![endif]-->b", "ab"),
        ("a<![if !supportEmptyParas]>&nbsp;<![endif]>b<![foo]>c<![CDATA[d]]>", "a bc"),
        ("<o:p>a</o:p><?xml:namespace x>b", "ab"),
        ("5 < 6 & 7 &lt; 8 &#8364; &#x20AC; &bogus;", "5 < 6 & 7 < 8 € € &bogus;"),
        ('<a href="https://example.org/x">here</a><img src="cid:1" alt="boat">', "here"),
        ("Rain &amp; sun &lt", "Rain & sun <"),
        ('a<a href="x>', "a"),
        ("a<b", "a"),
        ("a<blockquote>q<blockquote>r</blockquote>s</blockquote>b", "a\nb"),
        ("a<blockquote>never closed", "a"),
        ('a<div class="gmail_signature" data-x=1><div>Ada</div>Analyst</div><div>b</div>', "a\nb"),
        ('a<div id="Signature"><p>Ada</p></div>', "a"),
        ('a<pre class="moz-signature" cols="72">Ada</pre>', "a"),
        ('a<div class="x yahoo_quoted">On Monday, Bob wrote:<div>q</div></div>', "a"),
        ('a<img class="gmail_signature">b', "ab"),
        ("</div></blockquote>a</p>", "a"),
        ("", ""),
    ],
)
def test_html(given: str, expected: str) -> None:
    assert html(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        # Gmail, answered above, and between the lines; and forwarded
        '<div dir="ltr">Yes.</div><br><div class="gmail_quote"><div dir="ltr" class="gmail_attr">On Mon, May 6, 2024 at'
        " 10:00 AM Bob &lt;bob@x.org&gt; wrote:<br></div><blockquote class=gmail_quote>Rain?</blockquote></div>",
        '<div class="gmail_quote"><div class="gmail_attr">On Mon, May 6, 2024 at 10:00 AM Bob &lt;<a href="mailto:b@x">'
        "bob@example.com</a>&gt; wrote:<br></div><blockquote>Rain?</blockquote><div>Yes.</div><blockquote>Sun?"
        "</blockquote></div>",
        '<div>Yes.</div><div class="gmail_quote"><div class="gmail_attr">---------- Forwarded message ---------<br>From'
        ": <b>Bob</b> &lt;bob@example.com&gt;<br>Date: Mon<br>Subject: Rain<br></div>It rains.</div>",
        # Apple Mail
        "<div>Yes.<br><div><br><blockquote type=cite><div>On 6 May 2024, at 10:00, Bob &lt;b@x.org&gt; wrote:</div>"
        "<div>Rain?</div></blockquote></div></div>",
        # Thunderbird
        '<p>Yes.</p><div class="moz-cite-prefix">Am 06.05.24 um 10:00 schrieb Bob Builder:<br></div><blockquote'
        " type=cite>Rain?</blockquote>",
        # Outlook, of Windows and of the web
        "<p class=MsoNormal>Yes.<o:p></o:p></p><div style='border:none;border-top:solid #E1E1E1 1.0pt'><p>"
        "<b>From:</b> Bob &lt;b@x.org&gt;<br><b>Sent:</b> Monday<br><b>To:</b> Ada<br><b>Subject:</b> Rain</p>"
        "</div><p>Rain?",
        "<div dir='ltr'>Yes.<br><div><hr id=\"stopSpelling\">Date: Thu, 26 Jun<br>Subject: Rain<br>From: b@x.org<br>"
        "To: a@x.org<br><br><div>Rain?</div></div></div>",
        '<div>Yes.</div><div id="appendonsend"></div><hr style="width:98%"><div id="divRplyFwdMsg"><b>Von:</b> Bob<br>'
        "<b>Gesendet:</b> Montag<br><b>An:</b> Ada<br><b>Betreff:</b> Regen</div><div>Regen?</div>",
        # The same, quoted again by another program; Outlook of telephones and of macOS
        '<div>Yes.</div><div id="x_divRplyFwdMsg"><b>Xx:</b> Bob<br><b>Yy:</b> Regen</div><div>Regen?</div>',
        '<div>Yes.</div><div id="ms-outlook-mobile-signature">Get Outlook</div><div id="mail-editor-reference-message-'
        'container"><div class="ms-outlook-mobile-reference-message"><b>Xx:</b> Bob</div>Rain?</div>',
        '<div>Yes.</div><span id="OLK_SRC_BODY_SECTION"><div>Xx: Bob</div><div>Rain?</div></span>',
        '<div>Yes.</div><div class="OutlookMessageHeader">Xx: Bob<br>Yy: Rain</div><div>Rain?</div>',
        # Thunderbird, forwarded; Yahoo, Samsung, Spark
        '<div>Yes.</div><div class="moz-forward-container"><table class="moz-email-headers-table"><tr><th>Xx</th></tr>'
        "</table>Rain?</div>",
        '<div>Yes.</div><div class="ydp1a2b3cyahoo_quoted" id="ydp1a2b3cyahoo_quoted_123">Xx<div>Rain?</div></div>',
        '<div>Yes.</div><div id="yahoo_quoted_4711">Xx<div>Rain?</div></div>',
        '<div>Yes.</div><div id="composeWebView_previouse_content">Xx: Bob<div>Rain?</div></div>',
        '<div name="messageBodySection">Yes.</div><div name="messageSignatureSection">Ada</div><div name="messageReply'
        'Section">On 6 May 2024, 10:00 +0200, Bob wrote:<blockquote>Rain?</blockquote></div>',
        # Proton
        '<div>Yes.</div><div class="protonmail_signature_block"><div>Sent with Proton Mail.</div></div><div '
        'class="protonmail_quote">On Monday, Bob wrote:<br><blockquote class="x">Rain?</blockquote></div>',
    ],
)
def test_html_of_well_known_programs(given: str) -> None:
    assert html(given) == "Yes."


@settings(max_examples=50)
@given(st.text(st.sampled_from("<>/!-=\"'& abdivpre[]?;#\n"), max_size=80))
def test_any_html_is_read(given: str) -> None:
    assert isinstance(html_text(given), str)
