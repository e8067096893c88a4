"""Papyan, arXiv:2008.11865: K (K - 1) smaller outliers beyond the K - 1 of the classes."""

import specop
from reproductions.book import Row
from reproductions.chapters.outliers import trained


def rows():
    """The gap after K (K - 1) eigenvalues, or after all K^2 - 1, of a network that has learned its classes."""
    found = []
    for classes in (3, 4):
        k = classes**2
        result = specop.landscape.outliers(trained(classes, 400), classes, k=k + 10)
        for place in (k - classes, k - 1):
            ratio, chance = result.ratios[place - 1], result.chances[place - 1]
            reached = place in result.places
            text = f"ratio {ratio:.2f}, chance {chance:.2f}"
            found.append(Row(f"{classes} classes, a gap after {place}", "yes", text, bool(reached)))
    return found
