"""Pages of the API, one for each public name, written from `__all__` of specop and of its namespaces before a build."""

import ast
import importlib
import inspect
from pathlib import Path

NAMESPACES = {
    "specop.analysis": "Samples and weights",
    "specop.landscape": "The shape of the loss",
    "specop.training": "During training",
    "specop.results": "Results",
    "specop.errors": "Errors and warnings",
    "specop.arrays": "For adapters: arrays",
    "specop.objectives": "For adapters: derivatives",
    "specop.testing": "Checks",
}


def public_names():
    """Return the dotted name of everything public, namespaces aside: name to object."""
    found = {}
    for module in ["specop", *NAMESPACES]:
        namespace = importlib.import_module(module)
        for name in namespace.__all__:
            if not inspect.ismodule(getattr(namespace, name)):
                found[f"{module}.{name}"] = getattr(namespace, name)
    return found


def write_pages(folder):
    """Write the index and a page for each name into a folder; files that would not change are left."""
    folder = Path(folder)
    pages = {"index.rst": _index(), **{f"{name}.rst": _page(name, value) for name, value in public_names().items()}}
    folder.mkdir(exist_ok=True)
    for old in set(folder.glob("*.rst")) - {folder / name for name in pages}:
        old.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _index():
    lines = ["API", "===", "", "Every public name. What people type first is in ``specop`` itself.", ""]
    for title, names in _groups():
        lines += [title, "-" * len(title), "", ".. list-table::", "   :widths: 35 65", ""]
        for name in names:
            lines += [f"   * - :doc:`{name.removeprefix('specop.')} <{name}>`", f"     - {_first_line(name)}"]
        lines += ["", ".. toctree::", "   :hidden:", "", *(f"   {name}" for name in names), ""]
    return "\n".join(lines)


def _groups():
    """Titles and names: those of specop by the comments in its `__all__`, then the namespaces."""
    source = inspect.getsource(importlib.import_module("specop"))
    (listed,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    lines = source.splitlines()
    known, groups = public_names(), []
    for constant in listed.value.elts:
        comment = lines[constant.lineno - 2].strip()
        if comment.startswith("# "):
            groups.append((comment.removeprefix("# "), []))
        if f"specop.{constant.value}" in known:
            groups[-1][1].append(f"specop.{constant.value}")
    for namespace, title in NAMESPACES.items():
        groups.append((f"{title}: {namespace}", [name for name in known if name.rpartition(".")[0] == namespace]))
    return [group for group in groups if group[1]]


def _first_line(name):
    text = inspect.getdoc(public_names()[name]) if callable(public_names()[name]) else ""
    return (text or "").strip().split("\n\n")[0].replace("\n", " ").replace(" [1]_", "")


def _page(name, value):
    title = name.removeprefix("specop.")
    lines = [title, "=" * len(title), "", f".. currentmodule:: {name.rpartition('.')[0]}", ""]
    short = name.rpartition(".")[2]
    if inspect.isclass(value) and not issubclass(value, BaseException):
        lines += [f".. autoclass:: {short}", "   :members:", "   :inherited-members: tuple, dict, object", ""]
    elif inspect.isclass(value):
        lines += [f".. autoexception:: {short}", ""]
    elif inspect.isfunction(value):
        lines += [f".. autofunction:: {short}", ""]
    else:
        lines += [f".. autodata:: {short}", "   :no-value:", ""]
    return "\n".join(lines)


def _check(app, exception):
    """Stop where a public name has no entry in the site."""
    if exception is None and app.builder.name == "html":
        documented = set(app.env.get_domain("py").objects)
        lacking = sorted(set(public_names()) - documented)
        if lacking:
            raise RuntimeError(f"no entry for {', '.join(lacking)}")


def setup(app):
    """Write the pages when a build begins."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir) / "api"))
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
