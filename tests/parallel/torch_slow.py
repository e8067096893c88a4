"""Checks that take longer than the test command may: what the others show for some functions and one way of cutting."""

import pytest
from torch.nn import functional as F

import specop
from parallel import torch_functions
from parallel.torch_sharded import algorithms
from parallel.torch_sharded_samples import estimates_from_a_part
from parallel.torch_shards import UNION, fsdp, model, tensor_parallel

AT_A_MINIMUM = ["covariance", "learning_coefficient"]


def check_all_other_functions_of_objectives_are_right():
    elsewhere = [*torch_functions.QUICK, *AT_A_MINIMUM]
    torch_functions.are_right([name for name in torch_functions.calls(None, None) if name not in elsewhere])


def check_all_functions_of_a_minimum_are_right():
    torch_functions.are_right_at_a_minimum(AT_A_MINIMUM)


def check_tensor_parallel_algorithms():
    algorithms(tensor_parallel, UNION[:1])


def check_tensor_parallel_estimates_from_a_part_of_the_samples():
    estimates_from_a_part(lambda part, union: tensor_parallel(union))


def check_noise_of_fully_sharded_models():
    own = specop.objective(model(), F.cross_entropy, UNION, parallel=False)
    found, single = (specop.landscape.noise(one, parts=4) for one in (fsdp(), own))
    assert found.curvature_scale.estimate == pytest.approx(single.curvature_scale.estimate, rel=1e-8)
    assert found.simple_scale.estimate == pytest.approx(single.simple_scale.estimate, rel=1e-8)
