"""Source D, *Safety Subspaces are Not Linearly Distinct: A Fine-Tuning Case Study*, its claims on weight updates.

The updates that made a model useful, harmful and safe are compared matrix by matrix: how much of one a subspace of the other
keeps, and how far their leading subspaces overlap. No model is loaded. Each test is one claim, named and stated in
``geometry_bench/claims/weight_subspaces.py``. Families come from ``--family FILE`` or ``--weights FILE``; without any model
named, those of the embedded zoo that have fine-tunes.
"""

from geometry_bench.claims import weight_subspaces
from geometry_bench.plugin import benchmarks_of

globals().update(benchmarks_of(weight_subspaces.CLAIMS))
