"""What a name in single quotes of a docstring is: a link where it is public, and code otherwise."""

from api_pages import public_names
from docutils import nodes
from sphinx import addnodes

SHORT = {name.rpartition(".")[2]: name for name in reversed(public_names())}


def _name(role, rawtext, text, lineno, inliner, options=None, content=None):
    shown = nodes.literal(rawtext, text, classes=["xref", "py", "py-obj"])
    parts = text.removeprefix("specop.").split(".")
    known = text if text.startswith("specop.") else SHORT.get(parts[0]) and ".".join([SHORT[parts[0]], *parts[1:]])
    if not known:
        return [nodes.literal(rawtext, text)], []
    inliner.document.settings.env.get_domain("py")
    link = addnodes.pending_xref(
        rawtext, shown, refdomain="py", reftype="obj", reftarget=known, refexplicit=False, refwarn=True,
        refdoc=inliner.document.settings.env.docname,
    )  # fmt: skip
    return [link], []


def setup(app):
    """Add the role, which conf.py makes the default."""
    app.add_role("name", _name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
