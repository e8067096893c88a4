"""Why each message is raised: families of one reason, by which the page of messages is ordered.

A message belongs to the first family whose pattern is found in the file that raises it, in its class or in its text.
"""

import re
from typing import NamedTuple


class Family(NamedTuple):
    """Messages with one reason."""

    title: str
    why: str
    """What would go wrong otherwise, and what to do that the texts themselves have no room for."""
    patterns: str
    """A regular expression on "file class text"."""


FAMILIES = [
    Family(
        "A package is missing",
        "Frameworks, pictures, data frames and progress bars are extras, so that none of them is installed for "
        "those who do not use it. The text has the command.",
        r"pip install",
    ),
    Family(
        "Products would be of several matrices",
        "A method multiplies tens to hundreds of times and takes all products for those of one matrix. Where the "
        "loss draws random numbers, where its data come in another order or augmented anew, or where a call changes"
        " what the next one reads, each product has a matrix of its own, and what an algorithm then converges to is"
        " nothing. Two calls are compared before anything is computed. Evaluation mode, fixed "
        "transforms and ``shuffle=False`` make the loss a function; ``fixed_randomness=0`` that of one fixed mask.",
        r"NondeterministicError|two products of .* differ|Call model.eval\(\), or pass fixed_randomness|"
        r"active dropout|the forward pass writes to|writes to a variable|shuffles: which samples|"
        r"fixed_randomness is for",
    ),
    Family(
        "The model has moved, or is not the one that an operator was made for",
        "An operator belongs to one point. Half of the products at one point and half at another converge to "
        "eigenpairs of neither, without any sign of it. The parameters, buffers and modes are compared bit by bit, "
        "because writes past the framework move no counter. Make a new operator after each change, or fix the "
        "point: ``objective.hessian(theta)``.",
        r"ParametersChangedError|stands at other parameter values|max_norm=|Restore them",
    ),
    Family(
        "Numbers cannot be looked at while a function is traced",
        "Algorithms decide by numbers: whether a residual is small, whether a product is finite. Inside of "
        "``jax.jit``, ``tf.function`` and ``torch.func`` there are only their names. Make the objective and call "
        "the algorithms outside; JAX compiles the products that follow.",
        r"inside jax\.jit|inside tf\.function|inside a tf\.function|being traced|requires a gradient|transfer_guard",
    ),
    Family(
        "The criterion is no negative log-likelihood",
        "A Fisher matrix is that of a distribution of labels. A criterion with smoothing, a focal factor or a "
        "temperature has another second derivative than the likelihood that its name suggests, and the matrix would"
        " be neither of both. The Gauss-Newton matrix needs none: ``objective.ggn()``.",
        r"likelihood|kind must be|of must be 'terms'|Pass fisher\(kind",
    ),
    Family(
        "Samples depend on each other",
        "What is computed for all data from parts of them, from batches, halves or single samples, needs a loss "
        "that is a mean over samples. Under batch statistics, contrastive losses, ratios of sums and one mask for a"
        " whole batch a sample has no loss of its own, and how data are split would change the answer. It is tested"
        " by comparing losses of parts with that of the whole. Evaluation mode removes batch statistics; "
        '``batches="as given"`` makes the mean of the batches\' own losses the definition; ``weight=`` says by what '
        "a criterion divides.",
        r"single samples do not exist|samples are coupled|do not add up|depend on the rest|cannot be split|"
        r"what a sample adds is not known|of a population|whole batches|no curvature of its own|"
        r"weights of a batch's parts|batches of one size",
    ),
    Family(
        "What batches weigh, and which rows are samples, is not known",
        "Batches of different size count by the number of terms in their mean, and samples are told apart by the "
        "first dimension of what a batch holds. Guessing here would give another mean than the one that is trained,"
        " wrong in the third digit and never noticed.",
        r"counts in the mean|which rows belong|entries of a batch are one sample|samples gave|"
        r"samples have gradients|weight of batch|weight zero|cannot be taken one by one|"
        r"do not have the loss's gradient as their mean|the data hold one sample",
    ),
    Family(
        "The loss is no mean, or not one number",
        "Eigenvalues, dampings and learning rates are in units of the mean loss, as training has it. Of a sum they "
        "would grow with the data, and of an array it is not for specop to choose what becomes of its entries.",
        r"reduction=|one real number|one loss a sample",
    ),
    Family(
        "Parameters or vectors in parts on several devices",
        "A part of an array has no meaning apart from how the whole was cut. Parameters, data and vectors must lie "
        "on the same devices in the same way, since specop never moves an array by itself: that would hide what it "
        "costs. What is said to be not available yet would need sums over devices that are not built. "
        ":doc:`parallel` has what is.",
        r"DTensor|\bmesh|FSDP|\bsharded|spread over|the sharding|on several devices|tensor-parallel|placement|"
        r"cut evenly|as given.*available|_torch/(spread|fully)",
    ),
    Family(
        "Files, and results that come from them",
        "A file holds numbers, names and shapes, and no code: what needs the model itself must be computed again. "
        "Damaged and foreign files are refused before anything of them is used.",
        r"loaded from a file|results/files|krylov/checkpoint|krylov/locks|holds a .* and no history|cannot write|"
        r"only results of one kind",
    ),
    Family(
        "Several processes must agree",
        "Each process makes the same steps from sums over all of them. If their models, data, loaders or roundings "
        "differ, sums are of no one loss, or one process waits for ever for another. They are compared when an "
        "objective is made, and an error in one is raised in all. :doc:`parallel` has examples.",
        r"process|parallel|only one of \.\.\. has",
    ),
    Family(
        "It does not fit into memory",
        "What a call must hold is compared with what the device has free before anything is taken, so that hours of"
        " products do not end in the framework's own error. Defaults shrink by themselves; what was asked for by "
        "name is refused.",
        r"NotEnoughMemoryError|that is too much|memory_budget must|block_bytes|more than a million points|"
        r"inverted as a dense matrix",
    ),
    Family(
        "The point is no minimum, or the quadratic model ends close by",
        "Influence, pruning, learning coefficients and covariances read the loss off its Hessian at a minimum. On a"
        " slope or a saddle the first-order term is larger than what they compute. "
        ":doc:`api/specop.landscape.critical_point` tells which it is.",
        r"no minimum|QuadraticModelWarning|not analytic|nothing can be selected|gradients of all samples are zero",
    ),
    Family(
        "A number is not finite, or too large for its dtype",
        "NaN in one product spreads to every vector after it, and a norm whose square overflows is infinite. The "
        "text names the product, the parameter or the sample, since a finite loss may have an infinite second "
        "derivative: the root at 0, a norm at 0, the logarithm at 0.",
        r"NonFinite|not finite|must be finite|leave the range|leaves the range|NaN|diverge",
    ),
    Family(
        "Nothing to differentiate",
        "A parameter that is frozen, whole-numbered, quantized, complex or unused has a zero derivative or none. "
        "Its curvature would be an exact zero that looks like an answer. Choose those that are trained, by "
        "``select=`` or by making them trainable.",
        r"frozen|is trainable|no floating-point|does not depend on|no variables yet|are complex|"
        r"nothing can be differentiated|params is empty|does not hold its parameters|arrays have no derivatives|"
        r"NumPy arrays, as a checkpoint|statistics would count",
    ),
    Family(
        "The derivative would lack a part",
        "Frameworks differentiate in what a function is given. A parameter that the forward pass or a penalty reads"
        " from elsewhere is a constant to them, and the Hessian lacks what depends on it, without a word. Read it "
        "from the module or from the argument. Gauss-Newton and Fisher matrices come from derivatives in the "
        "outputs and cannot have a penalty's part: add it, ``A + 2 * weight_decay * specop.identity_like(A)``.",
        r"would lack that part|reads the parameter",
    ),
    Family(
        "The framework's derivative is missing or wrong",
        "A second derivative is not believed because a framework returned one. Some operations have none, some "
        "treat what they depend on as constant, fused kernels and compiled code may stop at the first, and hooks or"
        " straight-through gradients belong to no loss. The gradient is held against that of the training loop, and"
        " the first product against differences of the gradient. Replace the operation, or take "
        "``finite_difference_hessian()``, which needs first derivatives only.",
        r"no second derivative|no gradient of the loss|no derivative|gradient of the loss is not the one|"
        r"that of no loss|of no loss,|derivative of an operation|differences of|for a constant|for constants|"
        r"cannot be compiled|cannot be differentiated|so would be its gradient|fused|a copy in float64|"
        r"dtypes of its variables|computes in|two precisions|backward",
    ),
    Family(
        "Gauss-Newton, Fisher and samples' gradients need the outputs",
        "These matrices are made of the derivatives of the model's outputs and of the criterion in them. From a "
        "function that returns its loss only the loss, the gradient and the Hessian can be had. Pass the criterion "
        "apart.",
        r"MissingOutputsError|needs a criterion|criterion does not|outputs must be|criterion is the class|"
        r"criterion must be a function|forward= is for modules|Names are not looked up",
    ),
    Family(
        "How the model is called",
        "By default a batch is a pair, the model is called as ``model(x)`` and the criterion as "
        "``criterion(outputs, y)``. Everything else is said by ``forward=``, because a wrong guess would be the "
        "curvature of another loss.",
        r"objectives/calling|objectives/objective|fails on a whole batch|cannot be applied as it is|"
        r"needs the parameters it is given|no part of the model|Keras model runs|model of Keras runs|dense tensors|"
        r"tensor nor hashable|has no tensors of|params= is for",
    ),
    Family(
        "Data are read once for each product",
        "A generator is empty after the first pass. Lists and data loaders can be gone through again.",
        r"objectives/source|objectives/data|objectives/counting",
    ),
    Family(
        "Too few products are allowed",
        "``max_matvecs`` limits all products of a call. Below a method's least number there would be no answer, and"
        " no error of it.",
        r"max_matvecs|takes at least (two|three) products|product\(s\) left",
    ),
    Family(
        "The limit of stable steps is not known for this optimizer",
        "The limit follows from the rule by which an optimizer makes steps. Where gradients are clipped or "
        "averaged, where groups have different momentum, or where the rule has no formula, one number would be "
        "wrong for some of the parameters. ``lr=`` and ``momentum=`` give the limit of plain steps.",
        r"optimizers|_dynamics|update_rule|stability needs|leaves the limit out",
    ),
    Family(
        "What is selected",
        "A pattern that matches nothing, parts that overlap and samples that are chosen twice would each give a "
        "number that answers another question. The text lists what there is.",
        r"matches no parameter|chosen twice|chosen by|there is no sample|select |select:|blocks must|"
        r"in more than one|in the blocks|names of their own|no block|group \.\.\.|groups (is|must)|Pass groups=|"
        r"nothing is left|no samples to leave out|all .* samples are to be removed|exclude=|no score in this result|"
        r"of the same parameters|indices must",
    ),
    Family(
        "Eigenpairs from elsewhere",
        "``deflate=`` and ``v0=`` take a part of the spectrum for known. Eigenpairs of another matrix, even of the "
        "same model a step later, would be subtracted from what they do not belong to; one product finds that out.",
        r"krylov/known|no vector orthogonal",
    ),
    Family(
        "The matrix is not symmetric",
        "Lanczos, conjugate gradients and quadrature use that :math:`A = A^\\top`; on another matrix they return "
        "numbers that mean nothing. It is watched on products that are made anyway. Noise of low precision is told "
        "from asymmetry by its size, and bounds are widened by it.",
        r"AsymmetryError|NoiseWarning|symmetric",
    ),
    Family(
        "Eigenvalues without a stored basis",
        "Three vectors in place of one for each step find the same eigenvalues again and again, and know those next"
        " to a jump or next to zero too little. Where that decides the answer, the basis must be stored: "
        "``stored_basis=True``, in host memory ``specop.on_host(A)``.",
        r"stored basis",
    ),
    Family(
        "The matrix is indefinite or singular where that may not be",
        "A logarithm, a root, a condition number or an inverse does not exist there, or is made of rounding. "
        "``damping=``, ``A + d * specop.identity_like(A)`` or the Gauss-Newton matrix, which has no negative "
        "eigenvalue, are what is usually meant.",
        r"DomainError|indefinite|no inverse|no condition number|no eigenvalue is positive|positive definite|"
        r"is singular|no digit of the inverse",
    ),
    Family(
        "Rows that an inverse is made of",
        "A row is added and removed by what it holds, and the rows are kept by reference where that saves memory: a"
        " buffer that is written to again, or a row that was never added, would leave an inverse of another matrix.",
        r"woodbury/(row_marks|sherman_morrison)",
    ),
    Family(
        "The data do not tell",
        "An interval that holds zero gives no ratio, and a few samples no scatter. A number in spite of it would be"
        " noise with digits.",
        r"not told|part of the samples is not enough|the noise of|one class only|no classes|"
        r"at least 2: a single one has no error|too few to show|fewer do not show|beta = 1/log|"
        r"an error needs 2 chains|a covariance takes|labels|classes",
    ),
    Family(
        "Vectors of another framework, device, dtype or shape",
        "Specop never converts a vector and never moves one between devices: a copy that nobody asked for costs "
        "more than the product. Make vectors as the operator's own are made, such as by ``objective.flatten`` or "
        "from its gradient.",
        r"arrays/|_arrays|arrays\.py|solvers/operands|operators/|objectives/parameters\.py|structure|adapter",
    ),
    Family(
        "Records of one training",
        "A history holds one model, one sample of data and steps that do not fall, or its curve would mix several.",
        r"training/|results/history",
    ),
    Family(
        "A picture needs something to show, and axes of the right kind",
        "Pictures are drawn on one matplotlib Axes; a surface needs three dimensions.",
        r"plotting/",
    ),
    Family(
        "A task file of the command line",
        "``specop report task.py`` runs the file and calls its ``objective()`` without arguments.",
        r"report/",
    ),
    Family(
        "Arguments that do not go together",
        "Two arguments would contradict each other, or one has no meaning without another. None is ignored "
        "silently, since a setting that has no effect is taken for one that has.",
        r"not both|leave out|leave data= out|leave them or|"
        r"Leave .* out|belongs? to|takes neither|needs to=|takes one other|is for data|"
        r"takes no span|takes one |need something to look at|needs a test objective|needs second derivatives|"
        r"data='part'|Measure one of them|measures that are compared",
    ),
    Family(
        "An argument's type or range",
        "The value is outside of what has a meaning, as the parameter's description says. Nothing was computed.",
        # What is left: a test holds how much that may be.
        r"InvalidInputError",
    ),
]


def family_of(kind, text, path):
    """Return the family of a message, or None."""
    whole = f"{path} {kind} {text}"
    return next((family for family in FAMILIES if re.search(family.patterns, whole)), None)
