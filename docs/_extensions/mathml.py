"""Formulas as MathML, which browsers draw themselves: the pages need no script and no network for them."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from formulas import mended
from short_fractions import braced
from sphinx.util import logging

_LOG = logging.getLogger(__name__)


def setup(app):
    """Add the renderer to Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(writer, node):
    _write(writer, node, "span", as_block=False)


def _block(writer, node):
    _write(writer, node, "div", as_block=True)


def _write(writer, node, tag, as_block):
    try:
        formula = tex2mathml(braced(node.astext()), as_block=as_block)
    except MathError as error:
        _LOG.warning("%s In the formula %s", error, node.astext(), location=node)
        raise nodes.SkipNode from None
    # Bars of norms are as high as their line, and not as the highest fraction in it.
    formula = mended(formula)
    formula = re.sub("<mo>([‖∣|])</mo>", r'<mo stretchy="false">\1</mo>', formula)
    writer.body.append(f"{writer.starttag(node, tag, '', CLASS='math')}{formula}</{tag}>")
    raise nodes.SkipNode
