"""TeX's fractions without braces, which a converter to MathML does not read as TeX does."""

import re

# Arguments of one character without braces, as TeX takes them: the converter would read 12 in \frac12 as one number.
_FRACTION = re.compile(r"\\frac(\{[^{}]*\}|\s*\d|\s+[A-Za-z])\s*(\{[^{}]*\}|[0-9A-Za-z])")


def braced(formula):
    r"""Return a formula with braces around both arguments of each \frac."""

    def both(match):
        numerator, denominator = (part.strip().removeprefix("{").removesuffix("}") for part in match.groups())
        return rf"\frac{{{numerator}}}{{{denominator}}}"

    return _FRACTION.sub(both, formula)
