"""Numbers about all samples of a mean from products with a part of them, with the error that this adds."""
