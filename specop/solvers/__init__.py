"""Linear systems and inverses: they see a LinearOperator and its Backend, nothing else."""
