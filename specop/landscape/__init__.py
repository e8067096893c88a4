"""What the shape of the loss means for training: minima and their sharpness, stable rates, noise, ranks."""

__all__: list[str] = []
