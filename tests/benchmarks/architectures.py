"""The networks of the benchmark: nothing unusual, as people write them."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvolutionalNetwork(nn.Module):
    """3x3 convolutions of stride two, then one hidden layer.

    Parameters
    ----------
    widths : tuple of int
        Channels after each convolution.
    size : int
        Height and width of the images.
    hidden : int
        Width of the hidden layer; 0 leaves it out.
    """

    def __init__(self, widths: tuple[int, ...], size: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU()]
            channels, size = width, (size + 1) // 2
        layers.append(nn.Flatten())
        features = channels * size * size
        if hidden:
            layers += [nn.Linear(features, hidden), nn.ReLU()]
            features = hidden
        layers.append(nn.Linear(features, 10))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, 10)."""
        logits: Tensor = self.layers(images)
        return logits


class Transformer(nn.Module):
    """A causal, pre-norm transformer over characters with fused attention.

    Parameters
    ----------
    vocabulary, context, width, heads, depth : int
        Number of codes, of positions, of channels, of attention heads and of blocks.
    """

    def __init__(self, vocabulary: int, context: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, codes: Tensor) -> Tensor:
        """Return logits of shape (batch, time, vocabulary)."""
        hidden = self.tokens(codes) + self.positions[: codes.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


class WideAndDeep(nn.Module):
    """Wide & Deep: a linear model of all codes beside an embedding and a multilayer perceptron.

    Parameters
    ----------
    codes, columns, numbers : int
        Number of different codes, of columns with codes, and of columns with numbers.
    embedding, hidden : int
        Width of the embedding and of the first hidden layer.
    """

    def __init__(self, codes: int, columns: int, numbers: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.columns = columns
        self.wide = nn.Embedding(codes, 1)
        self.embedding = nn.Embedding(codes, embedding)
        self.deep = nn.Sequential(
            nn.Linear(columns * embedding + numbers, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden // 2),
            nn.ReLU(),
            nn.Linear(hidden // 2, 1),
        )

    def forward(self, table: Tensor) -> Tensor:
        """Return logits of shape (batch,)."""
        codes = table[:, : self.columns].long()
        numbers = table[:, self.columns :]
        deep = self.deep(torch.cat([self.embedding(codes).flatten(1), numbers], dim=1))
        logits: Tensor = deep + self.wide(codes).sum(1)
        return logits.squeeze(1)


class TokenCrossEntropy(nn.Module):
    """Cross entropy, averaged over all tokens."""

    reduction = "mean"  # curvlinops reads it

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits (batch, time, vocabulary) for codes (batch, time)."""
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.second_norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        batch, time, width = hidden.shape
        stacked = self.attention(self.first_norm(hidden)).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = stacked.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.projection(mixed.transpose(1, 2).reshape(batch, time, width))
        update: Tensor = self.perceptron(self.second_norm(hidden))
        return hidden + update
