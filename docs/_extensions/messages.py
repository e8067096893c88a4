"""A page with the text of everything that specop raises or warns of, and why, written from the source by a build."""

import ast
import re
from pathlib import Path

from reasons import FAMILIES, family_of

ROOT = Path(__file__).parents[2]


def messages():
    """Return triples of an error's class, its text with ... for values, and the file that it is in."""
    found = set()
    errors = {name for name in re.findall(r"^class (\w+)\(", (ROOT / "specop" / "errors.py").read_text(), re.M)}
    for path in sorted([*(ROOT / "specop").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            made = _name(node.func)
            if made == "warn":
                made = next((_name(one) for one in node.args[1:] if _name(one) in errors), None)
            text = node.args and made in errors and _text(node.args[0])
            if text:
                found.add((made, text, str(path.relative_to(ROOT))))
    return sorted(found)


def _name(node):
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def _text(node):
    """What a string or an f-string says, or nothing where it is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(one.value if isinstance(one, ast.Constant) else "..." for one in node.values)
    return None


def write_page(path):
    """Write the page, unless it would not change."""
    lines = [
        "Messages",
        "========",
        "",
        "Everything that specop raises and warns of, under the reason why; ``...`` stands for the values of the case. "
        "Search this page for a few words of yours. :doc:`errors` has the classes, and more on the texts that people "
        "meet most.",
        "",
    ]
    found = {family: [] for family in FAMILIES}
    for kind, text, source in messages():
        words = " ".join(text.split())
        found[family_of(kind, words, source)].append((words, kind))
    for family, texts in found.items():
        lines += [family.title, "-" * len(family.title), "", family.why, ""]
        for words, kind in sorted(texts):
            escaped = re.sub(r"([\\*`|_])", r"\\\1", words)
            lines += [f"- {escaped} ({kind})", ""]
    page = "\n".join(lines)
    if not path.exists() or path.read_text() != page:
        path.write_text(page)


def setup(app):
    """Write the page when a build begins."""
    app.connect("builder-inited", lambda app: write_page(Path(app.srcdir) / "messages.rst"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
