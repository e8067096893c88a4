"""Spectral algorithms: they see a LinearOperator and its Backend, nothing else."""
