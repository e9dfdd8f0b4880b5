"""Languages as records declare them, and as they are detected."""

from __future__ import annotations

import pytest

from jobs.corpus.filtering import language

ENGLISH = (
    "Staphylococcus aureus, Pseudomonas aeruginosa, Klebsiella pneumoniae, Acinetobacter baumannii,"
    " Enterobacter cloacae and Escherichia coli were isolated. MIC50/MIC90: 0.25/1, 2/8 mg/L.",
    "OR 1.45 (95% CI 1.12-1.87), HR 0.78 (0.66-0.92), p<0.001; n=1204; BMI 27.3±4.1 kg/m2; LDL-C"
    " 2.6 mmol/L; eGFR 61 mL/min/1.73 m2.",
    "Tropheryma whipplei endocarditis: case report.",
    "Musculus levator ani et musculus coccygeus form the diaphragma pelvis; the arteria pudenda"
    " interna passes through the canalis pudendalis.",
    "Echinococcus granulosus sensu lato, E. multilocularis, Taenia solium, Ancylostoma duodenale,"
    " Necator americanus, Ascaris lumbricoides, Trichuris trichiura: prevalence 3.4%, 0.2%, 1.1%.",
    "AIM: To compare laparoscopic and open appendicectomy. METHODS: 120 pts. LOS 2.1 vs 3.4 d.",
    "Axonal transport is:",
    "42",
    "",
)
OTHERS = {
    "fr": "L'insuffisance cardiaque à fraction d'éjection préservée concerne environ la moitié des"
    " patients. Nous avons inclus 128 malades traités par empagliflozine 10 mg/j (p < 0,001).",
    "de": "Bei Kindern mit akuter Otitis media sollte nach 48 Stunden erneut untersucht werden;"
    " Amoxicillin 50 mg/kg/Tag ist Mittel der Wahl.",
    "es": "Objetivo: determinar la prevalencia de infección por Trypanosoma cruzi en gestantes."
    " Métodos: estudio transversal de 1.204 mujeres. La seroprevalencia fue del 3,4 %.",
    "pt": "Objetivo: avaliar a prevalência de infecção por Leishmania infantum em cães e humanos."
    " Métodos: estudo transversal com 1.204 amostras. A soroprevalência foi de 3,4%.",
    "it": "L'insufficienza cardiaca riguarda circa la metà dei pazienti. Sono stati inclusi 128"
    " soggetti trattati con empagliflozin 10 mg/die per 12 settimane (p < 0,001).",
    "zh": "射血分数保留的心力衰竭约占患者的一半。本研究纳入128例患者。",
    "ru": "Сердечная недостаточность встречается часто. Включено 128 больных.",
}


@pytest.mark.parametrize("text", ENGLISH)
def test_english_with_latin_names_and_many_numbers_stays(text: str) -> None:
    assert language.detect(text, ("en",)) == ""


@pytest.mark.parametrize("name", OTHERS)
def test_another_language_is_named_with_its_probability(name: str) -> None:
    found = language.detect(OTHERS[name], ("en",))

    assert found.split()[0] == name
    assert 0.5 < float(found.split()[1]) <= 1
    assert language.detect(OTHERS[name], ("en", name)) == ""


def test_titles_of_cited_works_are_not_read() -> None:
    cited = "[bib_ref] The effect of early treatment with the drug on the outcome, Ames [/bib_ref]"

    assert language.detect(OTHERS["de"] + cited * 9, ("en",)).startswith("de")


def test_an_abstract_in_english_does_not_hide_the_language_of_the_paper() -> None:
    abstract = "We compared the outcome of early and late treatment of patients with asthma. " * 25

    assert language.detect(abstract + OTHERS["es"] * 50, ("en",)).startswith("es")


def test_codes_of_pubmed_and_jats_are_the_same_languages() -> None:
    assert language.declared(["eng", "FRE", "pt-BR", "zh_CN", "mul", "Go", "python", ""]) == {
        "en",
        "fr",
        "pt",
        "zh",
    }
