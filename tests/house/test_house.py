"""Where everybody lives: each public name in the file that its name leads to."""

import importlib
import inspect
import pkgutil

import pytest

import specop
import specop.analysis

# Functions share a file with their family only.
HOMES = {
    "objectives.objective": ["objective"],
    "objectives.mean": ["Objective"],
    "spectral.eigsh": ["eigsh", "EigshState"],
    "spectral.trace": ["trace"],
    "spectral.diagonal": ["diagonal"],
    "spectral.spectral_density": ["spectral_density"],
    "spectral.rank": ["rank"],
    "spectral.inertia": ["inertia"],
    "spectral.trace_function": ["logdet", "effective_dimension", "trace_function"],
    "spectral.apply_function": ["apply_function"],
    "spectral.norms": ["spectral_norm", "condition_number"],
    "spectral.frobenius_norm": ["frobenius_norm"],
    "spectral.plan": ["plan"],
    "spectral.power_iteration": ["power_iteration"],
    "spectral.quadratic_form": ["quadratic_form"],
    "solvers.solve": ["solve"],
    "solvers.shifted": ["solve_shifted"],
    "solvers.inverse": ["inverse"],
    "solvers.preconditioners": ["eigen_preconditioner", "nystrom_preconditioner"],
    "solvers.woodbury.low_rank_update": ["low_rank_update"],
    "solvers.woodbury.sherman_morrison": ["ShermanMorrison"],
    "solvers.neumann": ["lissa"],
    "operators.operator": ["LinearOperator"],
    "operators.scipy": ["aslinearoperator"],
    "operators.explicit": ["FunctionOperator", "DenseOperator", "DiagonalOperator", "LowRankOperator"],
    "operators.identity": ["identity_like"],
    "operators.restrict": ["restrict"],
    "operators.host": ["on_host"],
    "results.result": ["load"],
}
NAMESPACES = ["analysis", "errors", "landscape", "results", "training"]
# Those for people who write an adapter, and the checks.
PUBLIC = [*NAMESPACES, "arrays", "objectives", "testing"]
PACKAGES = [module.name for module in pkgutil.walk_packages(specop.__path__, "specop.") if module.ispkg]


def test_the_root_exports_what_people_type_first():
    homeless = set(specop.__all__) ^ {name for names in HOMES.values() for name in names} ^ set(NAMESPACES)
    assert not homeless
    assert len(specop.__all__) == len(set(specop.__all__)) <= 45


@pytest.mark.parametrize("home", HOMES)
def test_a_name_leads_to_its_file(home):
    module = importlib.import_module(f"specop.{home}")
    # The docstring opens with the names: a look at the first sentence tells that this is the right file.
    opening = inspect.getdoc(module).split("\n\n")[0]
    for name in HOMES[home]:
        assert getattr(specop, name).__module__ == module.__name__
        assert name in module.__all__
        assert name in opening, f"the docstring of {module.__name__} does not open with {name}"


@pytest.mark.parametrize("name", PACKAGES)
def test_only_namespaces_re_export(name):
    package = importlib.import_module(name)
    if name.removeprefix("specop.") not in PUBLIC:
        assert not hasattr(package, "__all__")
        taken = {thing for thing in vars(package).values() if inspect.isfunction(thing) or inspect.isclass(thing)}
        assert not taken


@pytest.mark.parametrize("name", PUBLIC)
def test_namespaces_define_nothing_themselves(name):
    namespace = importlib.import_module(f"specop.{name}")
    if name == "errors":
        return
    assert set(namespace.__all__) <= set(vars(namespace))
    for public in namespace.__all__:
        home = getattr(getattr(namespace, public), "__module__", None)
        assert home != namespace.__name__
    # A function is not hidden by a module of its name.
    hidden = [public for public in namespace.__all__ if inspect.ismodule(getattr(namespace, public))]
    assert not hidden


def test_every_module_says_what_it_has():
    for module in pkgutil.walk_packages(specop.__path__, "specop."):
        if not module.ispkg:
            assert importlib.import_module(module.name).__all__, module.name


def test_damping_is_given_by_name_everywhere():
    named = [
        (name, inspect.signature(value).parameters.get("damping"))
        for room in (specop, specop.analysis, specop.landscape, specop.training)
        for name, value in vars(room).items()
        if not name.startswith("_") and callable(value)
    ]
    methods = [name for name, value in vars(specop.Objective).items() if name[0] != "_" and inspect.isfunction(value)]
    named += [(name, inspect.signature(getattr(specop.Objective, name)).parameters.get("damping")) for name in methods]
    found = {name: parameter.kind for name, parameter in named if parameter is not None}
    assert len(found) >= 11
    assert set(found.values()) == {inspect.Parameter.KEYWORD_ONLY}
