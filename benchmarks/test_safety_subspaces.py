"""Source D, *Safety Subspaces are Not Linearly Distinct: A Fine-Tuning Case Study*, its claims on activations.

Activations of every ``--model`` on useful and on two kinds of harmful requests are read from a window of late layers, and
the overlap of the subspaces that hold most of their energy compared with that of random subspaces and with one another.
Each test is one claim, named and stated in ``geometry_bench/claims/activation_overlap.py``; ``geometry-bench show CLAIM``
prints one with its criterion and null.
"""

from geometry_bench.claims import activation_overlap
from geometry_bench.plugin import benchmarks_of

globals().update(benchmarks_of(activation_overlap.CLAIMS))
