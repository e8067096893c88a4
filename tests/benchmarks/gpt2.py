"""Curvature of a GPT-2 of 124 million parameters within 12 GiB: largest eigenvalue, trace and density on a CPU.

python tests/benchmarks/gpt2.py [GiB] prints what each product takes, then the products of each call and the peak of
resident memory. The limit is that of the address space (``ulimit -v``), which every allocation counts against: what
would take more ends the run. A call that has not finished after 80 products says so.
"""

import resource
import sys
import time

LIMIT = float(sys.argv[1]) if len(sys.argv) > 1 else 12.0
resource.setrlimit(resource.RLIMIT_AS, (int(LIMIT * 2**30), int(LIMIT * 2**30)))

import torch
import transformers
from torch.nn.functional import cross_entropy

import specop
from specop.operators.operator import Composite


class LanguageModel(torch.nn.Module):
    """The logits of transformers' model, as a criterion takes them."""

    def __init__(self):
        super().__init__()
        self.model = transformers.GPT2LMHeadModel(transformers.GPT2Config())

    def forward(self, tokens):
        return self.model(tokens).logits


def next_token_loss(logits, tokens):
    return cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


class Counted(Composite):
    """The same matrix; says after each product which one it was, and what it took."""

    def __init__(self, A):
        super().__init__((A,), A.domain, A.codomain, is_symmetric=True)
        self.count = 0

    def _matvec(self, x):
        cpu, wall = time.process_time(), time.perf_counter()
        product = self.parts[0]._matvec(x)
        self.count += 1
        took = f"{time.process_time() - cpu:.1f} s of processor time, {time.perf_counter() - wall:.1f} s"
        print(f"  product {self.count}: {took}, peak {peak():.2f} GiB", flush=True)
        return product


def peak():
    """Return the most resident memory so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main():
    torch.manual_seed(0)
    model = LanguageModel().eval()
    tokens = torch.randint(0, 50257, (2, 128))
    H = specop.objective(model, next_token_loss, (tokens, tokens)).hessian()
    print(
        f"{H.shape[0]:,} parameters, a vector takes {H.shape[0] * 4 / 2**30:.2f} GiB, limit {LIMIT:g} GiB", flush=True
    )
    H = Counted(H)
    for name, call in {
        "largest eigenvalue": lambda: specop.eigsh(H, k=1, which="LA", tol=0.05, max_matvecs=80),
        "trace": lambda: specop.trace(H, max_matvecs=8),
        "density": lambda: specop.spectral_density(H, steps=10),
    }.items():
        began = time.process_time()
        found = call()
        seconds = time.process_time() - began
        print(f"\n{name}: {found.matvecs} products, {seconds:.0f} s, peak {peak():.2f} GiB\n{found}", flush=True)


if __name__ == "__main__":
    main()
