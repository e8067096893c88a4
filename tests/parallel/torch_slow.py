"""Checks that take longer than the test command may: what the others show for some functions and one way of cutting."""

from parallel import torch_functions
from parallel.torch_sharded import algorithms
from parallel.torch_shards import UNION, tensor_parallel

AT_A_MINIMUM = ["covariance", "learning_coefficient"]


def check_all_other_functions_of_objectives_are_right():
    elsewhere = [*torch_functions.QUICK, *AT_A_MINIMUM]
    torch_functions.are_right([name for name in torch_functions.calls(None, None) if name not in elsewhere])


def check_all_functions_of_a_minimum_are_right():
    torch_functions.are_right_at_a_minimum(AT_A_MINIMUM)


def check_tensor_parallel_algorithms():
    algorithms(tensor_parallel, UNION[:1])
