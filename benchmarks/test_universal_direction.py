"""Source B, *Do Language Models Share Unsafe Directions in Activation Space?*, held against every group of models.

A group of models reads the same safe and unsafe requests; ridge maps carry their states into the space of a reference
model, and the unsafe directions are compared there.
Groups come from ``--group FILE`` or ``--reference MODEL``; without any model named, those of the embedded zoo.

Each test is one claim, stated in ``geometry_bench/claims/universal_direction``; ``geometry-bench show CLAIM`` prints one
with its criterion, null and published values.
"""

from geometry_bench.claims import universal_direction
from geometry_bench.plugin import benchmarks_of

globals().update(benchmarks_of(universal_direction.CLAIMS))
