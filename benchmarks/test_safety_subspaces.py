"""Source D, *Safety Subspaces are Not Linearly Distinct: A Fine-Tuning Case Study*.

``activations.*``: activations of every ``--model`` on useful and on two kinds of harmful requests are read from a window of
late blocks, and the overlap of the subspaces that hold most of their energy is compared with that of random subspaces.
``weights.*``: the updates that made a model useful, harmful and safe are compared matrix by matrix; no model is loaded.
Families come from ``--family FILE`` or ``--weights FILE``; without any model named, those of the embedded zoo that have
fine-tunes. Each test is one claim, named and stated in ``geometry_bench/claims/safety_subspaces/records.py``;
``geometry-bench show CLAIM`` prints one with its criterion and null.
"""

from geometry_bench.claims import safety_subspaces
from geometry_bench.plugin import benchmarks_of

globals().update(benchmarks_of(safety_subspaces.CLAIMS))
