"""Texts on which tokenizers differ, to compare their ids on."""

from __future__ import annotations

DIFFICULT = (
    "",
    " ",
    "   ",
    " leading space",
    "   three leading spaces",
    "trailing space ",
    "two  spaces, three   spaces, sixteen                spaces",
    "a\tb\t\tc\t",
    "a\nb\n\nc\n\n\n",
    "carriage\r\nreturn\r",
    "form\ffeed, vertical\vtab, null\x00, bell\a, delete\x7f",
    "non\u00a0breaking, thin\u2009, ideographic\u3000, zero\u200bwidth, mark\ufeff, \u2028line",
    "Hypertension is treated with ACE inhibitors; p<0.05 [95% CI 1.2\u20133.4], OR>2, n=1,024.",
    "Metformin 500 mg b.i.d.\u2014HbA1c \u2264 7.0 % (53 mmol/mol); eGFR 45 mL/min/1.73 m\u00b2",
    (
        "\u03b2-blocker, \u03b1\u2081-antitrypsin, \u00b5g, \u2103, \u00bd, "
        "Na\u207a/K\u207a-ATPase, \u0394G\u00b0\u2032, \u221e, \u00b1"
    ),
    (
        "C\u2086H\u2081\u2082O\u2086 \u2192 2 C\u2082H\u2085OH + 2 CO\u2082; CYP2D6*4, "
        "HLA-B*57:01, c.1521_1523delCTT"
    ),
    "0 1 12 123 1234 12345 1234567890 3.14159 1e-6 1,000,000 007 \u0661\u0662\u0663",
    (
        "caf\u00e9 = cafe\u0301; \u00e5 = a\u030a = \u212b; \u1e9b\u0323; "
        "Z\u0351\u036b\u0343a\u0334lgo; \u0130stanbul, \u0131"
    ),
    "\ufb01ne \ufb02ow \uff21\uff22\uff23 \uff11\uff12\uff13 \u2460 \u00b2",
    (
        "\U0001f600 \U0001f9ec \U0001f468\u200d\U0001f469\u200d\U0001f467 "
        "\U0001f469\U0001f3fd\u200d\u2695\ufe0f \U0001f1e8\U0001f1ed 1\ufe0f\u20e3"
    ),
    (
        "\u4e2d\u6587\u533b\u5b66 \u65e5\u672c\u8a9e\u306e\u533b\u7642 \ud55c\uad6d\uc5b4 "
        "\u8a3a\u65ad\u3002\u300c\u6cbb\u7642\u300d"
    ),
    (
        "\u0627\u0644\u0637\u0628 \u0627\u0644\u0639\u0631\u0628\u064a "
        "\u0645\u064e\u0631\u064e\u0636 \u05e8\u05e4\u05d5\u05d0\u05d4 "
        "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \u0ba4\u0bae\u0bbf\u0bb4\u0bcd"
    ),
    (
        "\u041c\u0435\u0434\u0438\u0446\u0438\u043d\u0430 "
        "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac "
        "\u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8 \u0540\u0561\u0575\u0565\u0580\u0565\u0576 "
        "Ti\u1ebfng Vi\u1ec7t \u1780\u1798\u17d2\u1796\u17bb\u1787\u17b6"
    ),
    "\U00010348 \U0001d54f \U000e0001 \U0010ffff \ue000 \ufffd \ufffe \u0378",
    "\u2581 \u2581\u2581 a\u2581b <0x0A> <0xE4><0xBD><0xA0> \u0120 \u010a ##ing @@",
    "<s> </s> <unk> <pad> <s></s> <|endoftext|> <|im_start|>user<|im_end|> <|begin_of_text|>",
    "[INST] [/INST] <<SYS>> [PAD] [CLS] [SEP] [MASK] <mask> <eod> < EOD > [ fig ] [FIG]",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ababababababababa -------- ........ ======== ________",
    "camelCase snake_case kebab-case SHOUTING don't it's we'll O'Brien co\u2010operate",
    "https://doi.org/10.1000/xyz?a=b&c=%20#frag user@example.org C:\\temp\\x.txt /usr/bin",
    "def f(x):\n    return {'a': [1, 2], \"b\": x ** 2}  # comment\n\n\tif x:\n\t\tpass\n",
    "| drug | dose |\n|---|---:|\n| aspirin | 75 mg |\n\n# Heading\n\n- item\n  - nested\n1. one",
    "pneumonoultramicroscopicsilicovolcanoconiosis dichlorodiphenyltrichloroethane",
)
"""Spaces, controls, composed and compatibility characters, joined emoji, scripts, code points of
every length in UTF-8, names of special tokens, runs, markup.
"""


def difficult_texts(added_tokens: tuple[str, ...]) -> list[str]:
    """Return the fixed texts, and texts with each added token between words, beside itself, and
    with its neighbours.
    """
    lone = [
        text for token in added_tokens for text in (token, f"a{token}b", f" x {token}  {token} y ")
    ]
    together = ["".join(added_tokens), " ".join(added_tokens)] if added_tokens else []
    return [*DIFFICULT, *lone, *together]
