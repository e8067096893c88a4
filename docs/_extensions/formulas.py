"""What a converter to MathML leaves out: labels below braces, and room around the names of functions."""

import xml.etree.ElementTree as ET

_BRACE, _APPLIED = "⏟", "\u2061"
_THIN = "0.17em"


def mended(formula):
    """Return MathML with the labels of braces below them and thin spaces around log, tr and their like."""
    plain = formula.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "").replace("&ApplyFunction;", _APPLIED)
    root = ET.fromstring(plain)
    for element in list(root.iter()):
        if element.tag == "msub" and element[0].tag == "munder" and element[0][-1].text == _BRACE:
            element.tag = "munder"
        _space(element)
    return ET.tostring(root, encoding="unicode")


def _space(element):
    """Put thin spaces between a function's name and what is no bracket after it, and what is no operator before it."""
    children = list(element)
    for at, child in enumerate(children):
        if child.tag != "mo" or child.text != _APPLIED or at == 0:
            continue
        after = children[at + 1 : at + 2]
        if after and not (after[0].tag == "mo" and after[0].text in "([{"):
            element.insert(list(element).index(child) + 1, ET.Element("mspace", width=_THIN))
        if at > 1 and children[at - 2].tag != "mo":
            name = list(element).index(children[at - 1])
            element.insert(name, ET.Element("mspace", width=_THIN))
