"""The gate: the project's own measurements, made to tell whether a fine-tune has moved its parent's geometry.

``pytest benchmarks --model ./fine-tune --against ORG/PARENT`` compares them with the parent's stored ones; ``-k gate`` takes
them alone.

Each test is one claim, stated in ``geometry_bench/claims/gate``; ``geometry-bench show CLAIM`` prints one.
"""

from geometry_bench.claims import gate
from geometry_bench.plugin import benchmarks_of

globals().update(benchmarks_of(gate.CLAIMS))
