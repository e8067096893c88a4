"""Pictures of results; matplotlib is imported when one is drawn."""

from specop.plotting.influences import plot_influence_check
from specop.plotting.pruning import plot_pruning
from specop.plotting.spectra import plot_density, plot_eigenvalues, plot_rank, plot_trace

__all__ = ["plot_density", "plot_eigenvalues", "plot_influence_check", "plot_pruning", "plot_rank", "plot_trace"]
