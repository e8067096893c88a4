"""McCandlish et al., arXiv:1812.06162: steps to a loss by the noise scale, s_min (1 + scale / batch size)."""

import batch_size
from reproductions.book import Row


def rows():
    """Predicted before training and taken, in examples/batch_size.py."""
    return [
        Row(
            f"batches of {row.batch_size}, steps",
            f"{row.predicted:.0f}",
            f"{row.steps[1.0]:.0f}",
            0.7 < row.steps[1.0] / row.predicted < 1.4,
        )
        for row in batch_size.analyse(quick=False).rows
    ]
