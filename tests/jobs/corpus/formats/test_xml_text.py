"""XML of others: what is read safely, and which text its inline elements become."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import pytest
from lxml import etree

from jobs.corpus.formats import mathml, xml_text
from jobs.corpus.formats.xml_text import BadXml, inline_text, parse, records

BILLION_LAUGHS = b"""<!DOCTYPE a [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;">
<!ENTITY lol3 "&lol2;&lol2;&lol2;&lol2;">]><a>&lol3;</a>"""


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        ("10<sup>9</sup>/L", "10⁹/L"),
        ("10<sup>-3</sup> and 10<sup>\u22123</sup> mol", "10⁻³ and 10⁻³ mol"),
        ("2.5 x 10<sup> 6 </sup>IU", "2.5 x 10 ⁶ IU"),
        ("kg/m<sup>2</sup>", "kg/m²"),
        ("Ca<sup>2+</sup>, SO<sub>4</sub><sup>2-</sup>", "Ca²⁺, SO₄²⁻"),
        ("H<sub>2</sub>O, SpO<sub>2</sub>, IC<sub>50</sub>", "H2O, SpO2, IC50"),
        ("log<sub>10</sub>5, x<sub>1</sub>2", "log₁₀5, x₁2"),
        ("x<sub>1</sub><b>2</b>", "x₁2"),
        ("5<sub>10</sub>", "5₁₀"),
        ("e<sup>\u2212kt</sup>, d<sup>Q</sup>, 10<sup>2x</sup>", "e^(\u2212kt), d^Q, 10^(2x)"),
        ("the 1<sup>st</sup>, Lipitor<sup>®</sup>", "the 1st, Lipitor®"),
        ("99<sup>m</sup>Tc and <sup>18</sup>F", "99mTc and ¹⁸F"),
        ("37 <sup>o</sup>C, 37<sup>o</sup>C", "37 ^oC, 37°C"),
        ("a <i>b<b>c</b></i> d", "a bc d"),
        ("p&lt;0.05 &amp; OR&gt;2", "p<0.05 & OR>2"),
        ("5 &#181;g", "5 µg"),
        ("beta\n\t\t<sub>2</sub>-agonist", "beta2-agonist"),
        ("a<!-- c -->b<?pi x?>c", "abc"),
    ],
)  # fmt: skip
def test_inline_elements_keep_every_value(inside: str, text: str) -> None:
    assert inline_text(parse(f"<a>{inside}</a>".encode())) == text


def test_the_golden_values_pass_unchanged(values: list[str]) -> None:
    for value in values:
        element = etree.Element("a")
        element.text = value
        assert inline_text(parse(etree.tostring(element, encoding="utf-8"))) == value
        assert unicodedata.is_normalized("NFC", value)


def test_entities_of_html_are_known_and_others_are_not_expanded() -> None:
    known = b'<!DOCTYPE a SYSTEM "x.dtd"><a>&beta;-blocker, 5 &mu;g</a>'

    assert inline_text(parse(known)) == "β-blocker, 5 μg"
    with pytest.raises(BadXml, match="the entity &lol3; is not one of HTML 5"):
        inline_text(parse(BILLION_LAUGHS))


def test_no_file_is_read_for_an_entity(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("private")
    content = f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]><a>&x;</a>'.encode()

    with pytest.raises(BadXml, match="&x;"):
        inline_text(parse(content))


@pytest.mark.parametrize(
    "content", [b"", b"not XML", b"<a><b></a>", b"<a>", b"<a>\xff</a>", b"<a>&#0;</a>"]
)  # fmt: skip
def test_what_is_not_xml_is_refused(content: bytes) -> None:
    with pytest.raises(BadXml, match="not XML"):
        parse(content)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(BadXml, match="not XML"):
        parse(b"<a>" * 100_000)


def test_records_are_freed_as_they_are_read() -> None:
    one = b"<r><x>text</x><n><r/></n></r>"
    stream = io.BytesIO(b"<set>" + one * 20_000 + b"<other/></set>")
    sizes = []

    for element in records(stream, ("r",)):
        assert element.findtext("x") == "text"
        sizes.append(len(element.getparent()))

    assert len(sizes) == 20_000
    assert max(sizes) < 2000  # of one block of the file


def test_records_before_a_truncation_are_whole_and_then_it_is_reported() -> None:
    stream = io.BytesIO(b"<set><r>1</r><r>2</r><r>3")
    found = []

    with pytest.raises(BadXml, match="not XML"):
        found += [element.text for element in records(stream, ("r",))]

    assert found == [] or found == ["1", "2"]


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        ("<msup><mn>10</mn><mrow><mo>-</mo><mn>3</mn></mrow></msup>", "10^(- 3)"),
        ("<msup><mi>x</mi><mn>2</mn></msup>", "x^2"),
        ("<mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mi>c</mi></mfrac>", "(a + b)/c"),
        ("<mi>y</mi><mo>=</mo><mn>54.5</mn><mo>-</mo><mn>1.09</mn><mi>x</mi>", "y = 54.5 - 1.09x"),
        ("<msqrt><mi>n</mi></msqrt><mroot><mi>n</mi><mn>3</mn></mroot>", "√(n)(n)^(1/3)"),
        ("<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>", "x_i^2"),
        ("<mfenced><mi>a</mi><mi>b</mi></mfenced>", "(a,b)"),
        ("<mi>&mu;</mi><mi>g</mi><mi>&Thetas;</mi>", "μgΘ"),
        ("<mover><mi>V</mi><mo>.</mo></mover><msub><mi>O</mi><mn>2</mn></msub>",
         "V\N{COMBINING DOT ABOVE}O_2"),
        ("<mover><mi>x</mi><mo>\u203e</mo></mover>", "x\N{COMBINING MACRON}"),
        ("<msup><mi>x</mi><mrow/></msup>", "x"),
        ("<mmultiscripts><mi>He</mi><mprescripts/><none/><mn>3</mn></mmultiscripts>", "³He"),
        ("<mmultiscripts><mi>C</mi><mn>2</mn><none/><mprescripts/><mn>6</mn><mn>14</mn>"
         "</mmultiscripts>", "_6¹⁴C_2"),
        ("<mn>0</mn><mtext>if</mtext><mi>x</mi>", "0 if x"),
        ("<mn>5</mn><mspace/><mi>mg</mi>", "5 mg"),
        ("<mn>5</mn><mtext>\u00a0</mtext><mi>mg</mi>", "5 mg"),
        ("<mtable><mtr><mtd><mi>r</mi></mtd><mtd><mo>=</mo></mtd><mtd><mn>5</mn></mtd></mtr>"
         "</mtable>", "r = 5"),
        ("<mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>0</mn></mtd></mtr></mtable>", "1, 0"),
        ("<semantics><mi>k</mi><annotation>tex</annotation></semantics>", "k"),
    ],
)  # fmt: skip
def test_formulas_keep_every_value(inside: str, text: str) -> None:
    head = '<!DOCTYPE math SYSTEM "mathml.dtd">'
    math = f'{head}<math xmlns="http://www.w3.org/1998/Math/MathML">{inside}</math>'

    assert xml_text.one_line(mathml.text_of(parse(math.encode()))).strip() == text


@pytest.mark.parametrize(
    ("parts", "known"),
    [
        ("<year>2013</year><month>2</month><day>4</day>", "2013-02-04"),
        ("<Year>2013</Year><Month>September</Month>", "2013-09"),
        ("<month>5</month>", ""),
        ("<year>n.d.</year><month>5</month>", ""),
    ],
)
def test_a_date_is_read_alike_in_every_layout(parts: str, known: str) -> None:
    element = parse(f'<pub-date xmlns="https://jats.example">{parts}</pub-date>'.encode())

    assert xml_text.date(element) == known
