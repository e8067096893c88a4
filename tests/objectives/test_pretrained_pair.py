"""One pre-trained network, published for torch and for Keras by different people: the Hessian spectra agree.

    pip install --no-deps facenet-pytorch==2.6.0 mtcnn==1.0.0 lz4
    pytest -m benchmark tests/test_pretrained_pair.py

The O-net of MTCNN (Zhang et al., 2016): 389,040 parameters that find faces in 48 x 48 images.
"""

from importlib import metadata
from importlib.util import find_spec

import numpy as np
import pytest

import specop

PACKAGES = ("torch", "tensorflow", "facenet_pytorch", "mtcnn", "lz4")
pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason=f"needs {', '.join(PACKAGES)}"),
]


def images(count=48):
    """Pieces of scikit-learn's two photographs, (count, 48, 48, 3), scaled as the network was trained."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = load_sample_images().images
    corners = rng.integers(0, [len(photographs), 427 - 48, 640 - 48], (count, 3))
    pieces = [photographs[i][y : y + 48, x : x + 48] for i, y, x in corners]
    return ((np.stack(pieces) - 127.5) / 128).astype(np.float32)


def labels(count=48):
    return np.random.default_rng(1).integers(0, 2, count)


def torch_objective():
    import torch
    from torch import nn

    class Network(nn.Module):
        # The names are those of the published weights; their own module needs packages that are not needed here.
        def __init__(self):
            super().__init__()
            for i, (inputs, outputs, size) in enumerate([(3, 32, 3), (32, 64, 3), (64, 64, 3), (64, 128, 2)], start=1):
                setattr(self, f"conv{i}", nn.Conv2d(inputs, outputs, size))
                setattr(self, f"prelu{i}", nn.PReLU(outputs))
            self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
            self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

        def forward(self, x):
            pooled = nn.functional.max_pool2d
            x = pooled(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
            x = pooled(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
            x = pooled(self.prelu3(self.conv3(x)), 2, 2, ceil_mode=True)
            x = self.prelu4(self.conv4(x)).permute(0, 3, 2, 1).flatten(1)
            x = self.prelu5(self.dense5(x))
            return self.dense6_2(x), self.dense6_3(x), torch.log_softmax(self.dense6_1(x), 1)

    def criterion(outputs, targets):
        boxes, landmarks, logarithms = outputs
        return nn.functional.nll_loss(logarithms, targets) + (boxes**2).mean() + (landmarks**2).mean()

    model = Network().eval()
    published = metadata.distribution("facenet-pytorch").locate_file("facenet_pytorch/data/onet.pt")
    model.load_state_dict(torch.load(published, weights_only=True))
    inputs = torch.from_numpy(images().transpose(0, 3, 1, 2).copy())
    return specop.objective(model, criterion, (inputs, torch.from_numpy(labels())))


def keras_objective():
    import joblib
    import tensorflow as tf
    from mtcnn.network.onet import ONet

    def criterion(outputs, targets):
        boxes, landmarks, probabilities = outputs
        chosen = tf.gather(tf.math.log(probabilities), targets, axis=1, batch_dims=1)
        return -tf.reduce_mean(chosen) + tf.reduce_mean(boxes**2) + tf.reduce_mean(landmarks**2)

    model = ONet()
    model.build()
    model.set_weights(joblib.load(metadata.distribution("mtcnn").locate_file("mtcnn/assets/weights/onet.lz4")))
    return specop.objective(model, criterion, (tf.constant(images()), tf.constant(labels())))


def test_the_spectra_of_both_agree():
    ours, theirs = torch_objective(), keras_objective()
    assert ours.n == theirs.n == 389_040
    assert float(ours.loss()) == pytest.approx(float(theirs.loss()), rel=1e-5)
    first, second = ours.hessian(), theirs.hessian()
    top = [specop.eigsh(H, k=10, tol=1e-4) for H in (first, second)]
    np.testing.assert_allclose(top[0].eigenvalues, top[1].eigenvalues, rtol=1e-4)
    # Their parameters stand in another order, so the same seed gives probes that are not permutations of each other.
    densities = [
        specop.spectral_density(H, steps=40, probes=4, deflate=known)
        for H, known in zip((first, second), top, strict=True)
    ]
    spread = np.ptp(top[0].eigenvalues)
    points = np.linspace(densities[0].nodes.min(), densities[0].nodes.max(), 20_001)
    distance = np.trapezoid(np.abs(densities[0].cdf(points) - densities[1].cdf(points)), points)
    assert distance < 1e-3 * spread
